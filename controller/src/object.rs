//! Pure: an API object as whole JSON, with accessors for its metadata.
