//! Pure: what can go wrong, by what the caller can do about it.

use std::path::PathBuf;

use thiserror::Error;

/// Why a request to the runtime failed.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no such sandbox or container.
    #[error("{what} {id:?} not found")]
    NotFound {
        /// `sandbox` or `container`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// There is one with this id already.
    #[error("{what} {id:?} already exists")]
    AlreadyExists {
        /// `sandbox` or `container`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The container is not in a state that allows it.
    #[error("container {id:?} is {state}, not {wanted}")]
    State {
        /// Its id.
        id: String,
        /// Its state.
        state: &'static str,
        /// The state that the request needs.
        wanted: &'static str,
    },
    /// The request cannot be met as it is written; trying again does not help.
    #[error("{0}")]
    Invalid(String),
    /// The container's or exec's process could not be made; the message is what the helper saw.
    #[error("{0}")]
    Start(String),
    /// The shim did not answer and could not be replaced.
    #[error("shim of sandbox {id:?}: {message}")]
    Shim {
        /// The sandbox.
        id: String,
        /// What happened.
        message: String,
    },
    /// The host refused.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried, a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { what, path, source }
    }

    /// The message with all its causes on one line.
    pub fn chain(&self) -> String {
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(next) = cause {
            message = format!("{message}: {next}");
            cause = next.source();
        }
        message
    }
}
