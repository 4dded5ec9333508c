//! Bytes, revisions, watches: the cluster's memory.
