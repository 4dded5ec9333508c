//! Pure: what etcd's errors mean to the caller.

use etcd_client::Error;

use crate::error::{ReadError, WriteError};
use crate::record::Revision;

/// Why a call gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Surely nothing happened, and another member or a later moment may do: no connection, no leader.
    Untouched(String),
    /// Nobody knows whether it happened: the connection or the member went, or time.
    Unknown(String),
    /// The revision that it speaks of is compacted.
    Compacted,
    /// The revision that it speaks of is still to come.
    Future,
    /// More bytes than etcd takes.
    TooLarge,
    /// More bytes than this side takes at once.
    Answer,
    /// etcd's database has reached its quota.
    Full,
    /// Anything else: asking again would not help.
    Refused(String),
}

/// gRPC codes by number, as etcd uses them: the crate that names them is not ours.
const CANCELLED: i32 = 1;
const DEADLINE: i32 = 4;
const UNAVAILABLE: i32 = 14;

impl Refusal {
    pub(super) fn of(error: &Error) -> Refusal {
        match error {
            Error::GRpcStatus(status) => Refusal::of_status(i32::from(status.code()), status.message()),
            Error::TransportError(_) | Error::IoError(_) => Refusal::Unknown(error.to_string()),
            other => Refusal::Refused(other.to_string()),
        }
    }

    /// Messages are etcd's own (`rpctypes`), the last two tonic's.
    fn of_status(code: i32, message: &str) -> Refusal {
        let says = |words: &str| message.contains(words);
        let reason = || message.to_owned();
        if says("required revision has been compacted") {
            Refusal::Compacted
        } else if says("required revision is a future revision") {
            Refusal::Future
        } else if says("request is too large") || says("received message larger than max") {
            Refusal::TooLarge
        } else if says("database space exceeded") {
            Refusal::Full
        } else if says("no leader") || says("proposal dropped") || says("too many requests") || says("connect error") {
            Refusal::Untouched(reason())
        } else if says("message length too large") {
            Refusal::Answer
        } else if [CANCELLED, DEADLINE, UNAVAILABLE].contains(&code)
            || ["timed out", "leader changed", "transport", "connection", "stopped"].into_iter().any(says)
        {
            Refusal::Unknown(reason())
        } else {
            Refusal::Refused(reason())
        }
    }

    /// What a reader is told of a list or a key.
    pub(super) fn of_read(self, at: Option<Revision>, published: Revision) -> ReadError {
        match self {
            Refusal::Compacted => ReadError::Compacted { oldest: Revision(at.unwrap_or_default().0 + 1) },
            Refusal::Future => ReadError::TooNew { current: published },
            Refusal::Untouched(reason) | Refusal::Unknown(reason) => ReadError::Unavailable { reason },
            other => ReadError::Backend { reason: other.reason() },
        }
    }

    /// What a writer is told; `largest` is the key with the largest value, and its size.
    pub(super) fn of_write(self, largest: (String, usize)) -> WriteError {
        match self {
            Refusal::Full => WriteError::Full,
            Refusal::TooLarge => WriteError::ValueTooLarge { key: largest.0, bytes: largest.1 },
            Refusal::Untouched(reason) | Refusal::Unknown(reason) => WriteError::Unavailable { reason },
            other => WriteError::Backend { reason: other.reason() },
        }
    }

    pub(super) fn reason(self) -> String {
        match self {
            Refusal::Untouched(reason) | Refusal::Unknown(reason) | Refusal::Refused(reason) => reason,
            Refusal::Compacted => "the revision is compacted".into(),
            Refusal::Future => "the revision is still to come".into(),
            Refusal::TooLarge => "the request is too large".into(),
            Refusal::Answer => "the answer is too large".into(),
            Refusal::Full => "etcd's database is full".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_surely_did_not_happen_may_be_asked_again() {
        let of = |message| Refusal::of_status(UNAVAILABLE, message);
        assert!(matches!(of("etcdserver: no leader"), Refusal::Untouched(_)));
        assert!(matches!(of("tcp connect error"), Refusal::Untouched(_)));
        assert!(matches!(
            of("etcdserver: request timed out, possibly due to previous leader failure"),
            Refusal::Unknown(_)
        ));
        assert!(matches!(of("error reading a body from connection"), Refusal::Unknown(_)));
        assert!(matches!(Refusal::of_status(16, "etcdserver: invalid auth token"), Refusal::Refused(_)));
        assert_eq!(
            Refusal::of_status(11, "etcdserver: mvcc: required revision has been compacted"),
            Refusal::Compacted
        );
        assert_eq!(Refusal::of_status(3, "etcdserver: request is too large"), Refusal::TooLarge);
        assert_eq!(Refusal::of_status(8, "etcdserver: mvcc: database space exceeded"), Refusal::Full);
    }
}
