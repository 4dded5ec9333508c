//! Pure: the schema table of Kubernetes v1.35 and everything that it drives.
