//! Pure: THE kind table; a kind is a row.
