//! Pure: the objects that a new cluster starts with.
