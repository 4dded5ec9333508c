//! Shell: the hidden verbs of the binary: one-shot, single-threaded processes, the only ones that call libcontainer,
//! make namespaces or fork.

pub(crate) mod container;
mod launch;
pub(crate) mod sandbox;
mod trace;

use std::{ffi::OsString, process::ExitCode};

/// Makes a sandbox's namespaces and its shim, or a new shim alone.
/// The verb of shims, by which they are told from other processes of the binary.
pub const SHIM: &str = "shim";
/// Makes and starts a container.
pub(crate) const CONTAINER_START: &str = "container-start";
/// Makes a further process in a container.
pub(crate) const CONTAINER_EXEC: &str = "container-exec";

/// The hidden verbs of the binary. Call it first in `main`, before any thread exists; `None` means that the arguments
/// are not ours. The arguments are those of the process, the program's name included.
pub fn helper_main(args: &[OsString]) -> Option<ExitCode> {
    let verb = args.get(1)?.to_str()?;
    let rest = &args[2..];
    match verb {
        SHIM => Some(sandbox::main(rest)),
        CONTAINER_START => Some(container::start(rest)),
        CONTAINER_EXEC => Some(container::exec(rest)),
        _ => None,
    }
}
