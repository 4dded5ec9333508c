//! Shell: the Node object and its Lease.
