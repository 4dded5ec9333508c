//! Shell: the kubelet's own HTTP paths.
