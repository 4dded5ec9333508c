//! Shell: defaults, validates, admits, patches; the only writer of the store.
