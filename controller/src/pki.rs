//! Pure: the cluster's certificate authority, certificates and service-account keys.
