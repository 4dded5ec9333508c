//! Pure: from a request's credentials to an identity.
