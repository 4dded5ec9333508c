//! Pure: the verbs of the command line, as values.

use std::path::PathBuf;

/// One parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Controller and agent under one supervisor.
    Up,
    /// The control plane.
    Controller,
    /// A worker.
    Agent,
    /// Remove every trace of this instance; with `purge` its data too.
    Down {
        /// Remove the data directory as well.
        purge: bool,
    },
    /// What the machine lacks.
    Check,
    /// Join tokens.
    Token(TokenVerb),
    /// Boards and their keys.
    Node(NodeVerb),
    /// The store as a file.
    Snapshot(SnapshotVerb),
    /// Manifests into this board's own cluster.
    Apply(PathBuf),
    /// Images on this board.
    Image(ImageVerb),
    /// The controller's store.
    Store(StoreVerb),
    /// The controller's keys and certificates.
    Certificate(CertificateVerb),
    /// A container's log, read on the board; none is the board's own.
    Logs(Option<String>),
    /// The two systems of a flashed board.
    Slot(SlotVerb),
    /// Process 1 of a flashed board.
    Init,
    /// The orderly end of a flashed board; with `off` it does not start again.
    Reboot {
        /// Power off.
        off: bool,
    },
    /// Applies the demonstration to a running cluster; `up --demo` calls it.
    Demo,
    /// The demonstration's own container.
    Hello {
        /// The TCP port it listens on.
        port: u16,
    },
    /// The help text.
    Help,
    /// The version line.
    Version,
}

/// `bramble token ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenVerb {
    /// A new token; prints a ready join line.
    Create,
    /// Token ids and when they expire.
    List,
    /// Forget one, by id.
    Revoke(String),
}

/// `bramble node ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NodeVerb {
    /// Which keys were signed for which node.
    List,
    /// Shuts a board out, with everything that it holds.
    Revoke(String),
    /// Takes that back.
    Readmit(String),
}

/// `bramble snapshot ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SnapshotVerb {
    /// Into a new file, from the running controller.
    Save(PathBuf),
    /// Checks a file and says what is in it.
    Inspect(PathBuf),
    /// Makes a store of it; there must be none.
    Restore(PathBuf),
    /// Those that were taken by the clock.
    List,
    /// Brings one of them.
    Fetch {
        /// As `list` names it.
        name: String,
        /// A new file.
        file: PathBuf,
    },
}

/// `bramble image ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImageVerb {
    /// An OCI layout (folder or tar) or a docker archive, under another name if one is given.
    Import {
        /// Where it lies.
        path: PathBuf,
        /// The reference that it gets.
        name: Option<String>,
    },
    /// References, digests and sizes.
    List,
    /// Forget one reference.
    Remove(String),
    /// Edits a card's image; without options prints its `bramble.toml`.
    Customise(PathBuf),
    /// Writes a card.
    Flash {
        /// The card's image.
        image: PathBuf,
        /// The whole disk.
        device: PathBuf,
    },
}

/// `bramble slot ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SlotVerb {
    /// Which system runs, and which boots next.
    Status,
    /// Write an update into the other one, to be booted once.
    Install(PathBuf),
    /// The running one boots from now on.
    Confirm,
}

/// `bramble store ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreVerb {
    /// New keys at rest, in the running store.
    Rotate,
    /// Write what is whole into a new store.
    Salvage(PathBuf),
    /// From the file of the data directory into a shared etcd, or back.
    Migrate {
        /// Into etcd.
        to_etcd: bool,
    },
}

/// `bramble certificate ...`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CertificateVerb {
    /// What there is, and until when.
    Check,
    /// The controller's own, and the key that signs service-account tokens.
    Rotate,
    /// A new authority, with the former ones trusted.
    RotateCa,
    /// The former authorities are not trusted any more.
    RetireCa,
}
