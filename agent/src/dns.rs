//! Shell: answers names of the cluster, forwards the others.
