//! Pure: filter, then rank; its shell binds.
