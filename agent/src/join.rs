//! Shell: from a token and a pin to a certificate, and its rotation.
