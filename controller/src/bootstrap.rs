//! Shell: the objects that a new cluster starts with.

pub mod policy;
