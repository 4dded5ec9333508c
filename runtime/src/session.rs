//! Shell: the caller's ends of an exec or an attach.

use std::{
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use crate::{config::Size, error::Error};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// 0..=255, 128 + signal for a killed one.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
}

/// An exec or an attach. All descriptors are pipes or terminals, close-on-exec and blocking; take what you need.
/// Closing `stdin` ends the process's input.
#[derive(Debug)]
pub struct Session {
    /// Write here.
    pub stdin: Option<OwnedFd>,
    /// Read here; with a terminal, a duplicate of its master (EIO is its end).
    pub stdout: Option<OwnedFd>,
    /// Read here; `None` with a terminal.
    pub stderr: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) exit: OwnedFd,
}

impl Session {
    /// Sets the terminal's size; without a terminal it does nothing.
    pub fn resize(&self, size: Size) -> Result<(), Error> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        set_window_size(terminal.as_fd(), size)
    }

    /// A duplicate of the terminal's master, for whoever resizes it.
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(|fd| fd.as_fd())
    }

    /// Readable when the process has ended.
    pub fn exit_fd(&self) -> BorrowedFd<'_> {
        self.exit.as_fd()
    }

    /// Waits for the end. `None`: nobody saw it (the shim died).
    pub fn wait(&self) -> Result<Option<ExitStatus>, Error> {
        let mut bytes = [0u8; 8];
        let mut file = std::fs::File::from(self.exit.try_clone().map_err(Error::io("duplicate", "exit pipe"))?);
        match file.read(&mut bytes) {
            Ok(8) => {
                let code = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                let signal = i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
                Ok(Some(ExitStatus { code, signal: (signal != 0).then_some(signal) }))
            }
            Ok(_) => Ok(None),
            Err(source) => Err(Error::Io { what: "read", path: "exit pipe".into(), source }),
        }
    }
}

pub(crate) fn set_window_size(terminal: BorrowedFd<'_>, size: Size) -> Result<(), Error> {
    let size = rustix::termios::Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).map_err(|e| Error::io("resize", "terminal")(e.into()))
}
