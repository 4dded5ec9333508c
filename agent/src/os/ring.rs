//! Shell: what the board's own processes say, in memory, bounded: the newest lines in one file, the former ones in another.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Two files of this length at most, in the run directory: some thousand lines.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// A longer line is cut.
const LINE_BYTES_MAX: usize = 4096;

/// Where lines are written to.
#[derive(Debug)]
pub struct Ring {
    path: PathBuf,
    file: File,
    length: u64,
}

/// The files of a ring, the older one first.
#[must_use]
pub fn files(run_dir: &Path) -> [PathBuf; 2] {
    [run_dir.join("system.log.1"), run_dir.join("system.log")]
}

impl Ring {
    /// Goes on in an earlier file, or makes one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(run_dir: &Path) -> io::Result<Self> {
        let [_, path] = files(run_dir);
        let file = File::options().create(true).append(true).open(&path)?;
        let length = file.metadata()?.len();
        Ok(Self { path, file, length })
    }

    /// Adds a line with its time.
    ///
    /// # Errors
    /// The kernel's: no memory.
    pub fn line(&mut self, time: &str, line: &[u8]) -> io::Result<()> {
        let line = &line[..line.len().min(LINE_BYTES_MAX)];
        let whole = [time.as_bytes(), b" ", line, b"\n"].concat();
        if self.length + whole.len() as u64 > FILE_BYTES_MAX {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
            self.file = File::options().create(true).append(true).open(&self.path)?;
            self.length = 0;
        }
        self.file.write_all(&whole)?;
        self.length += whole.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_stay_and_no_more() {
        let dir = std::env::temp_dir().join(format!("bramble-ring-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut ring = Ring::open(&dir).unwrap();
        for number in 0..300 {
            ring.line("now", format!("{number} {}", "x".repeat(6000)).as_bytes()).unwrap();
        }
        drop(ring);
        Ring::open(&dir).unwrap().line("later", b"again").unwrap();
        let texts = files(&dir).map(|path| fs::read_to_string(path).unwrap());
        assert!(texts.iter().all(|text| text.len() as u64 <= FILE_BYTES_MAX));
        let lines: Vec<&str> = texts.iter().flat_map(|text| text.lines()).collect();
        assert!((64..130).contains(&lines.len()), "{}", lines.len());
        assert!(lines[lines.len() - 2].starts_with("now 299 xx") && lines.last() == Some(&"later again"));
        let numbers: Vec<usize> =
            lines[..lines.len() - 1].iter().map(|it| it.split(' ').nth(1).unwrap().parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|two| two[0] + 1 == two[1]));
        fs::remove_dir_all(&dir).unwrap();
    }
}
