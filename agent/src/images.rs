//! Shell: image pulls over the distribution API.
