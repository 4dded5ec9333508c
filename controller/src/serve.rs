//! Shell: puts the control plane together and listens.
