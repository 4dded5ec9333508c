//! Shell: the consoles of a board: screen and serial ports, all of them. `/dev/console` is only one, and not always the one
//! that somebody looks at.

use std::fs::{self, File};
use std::io::{self, PipeReader, Write};
use std::path::Path;

/// Open consoles.
#[derive(Debug)]
pub struct Consoles(Vec<File>);

impl Consoles {
    /// Those that the kernel writes to.
    #[must_use]
    pub fn open() -> Self {
        let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
        let open = |name: &str| File::options().write(true).open(Path::new("/dev").join(name)).ok();
        Self(active.split_whitespace().filter_map(open).collect())
    }

    /// A line on each; one that is gone is passed over.
    pub fn line(&mut self, line: impl AsRef<[u8]>) {
        let whole = [line.as_ref(), b"\r\n"].concat();
        for console in &mut self.0 {
            let _ = console.write_all(&whole);
        }
    }
}

/// Standard output and standard error of this process go into a pipe from here on, to be read like a daemon's.
///
/// # Errors
/// The kernel's.
pub fn redirect_standard_streams() -> io::Result<PipeReader> {
    let (reader, writer) = io::pipe()?;
    rustix::stdio::dup2_stdout(&writer)?;
    rustix::stdio::dup2_stderr(&writer)?;
    Ok(reader)
}
