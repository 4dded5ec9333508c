//! Shell: stdio, terminals, logs.
use crate::Test;
pub(crate) const TESTS: &[Test] = &[];
