//! Shell: the REST front door.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

/// A request's or an answer's body, in process and on the wire.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
