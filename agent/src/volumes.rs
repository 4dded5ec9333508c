//! Shell: what a pod mounts.
