//! Shell: the REST front door.
