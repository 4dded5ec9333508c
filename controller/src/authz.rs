//! Pure: may this identity do that?
