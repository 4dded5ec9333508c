//! Shell: one container's log in the CRI format, rotated by size. Allocates nothing.
//!
//! `<RFC 3339 with nanoseconds> <stdout|stderr> <F|P> <text>\n`; a line longer than 16 KiB is written as `P` pieces and
//! an `F` one, and a last line without its newline as `P`, as containerd does.

use std::{
    ffi::CStr,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use heapless::{String, Vec};
use rustix::fs::{Mode, OFlags, RawDir, RenameFlags};

use crate::wire::PATH_MAX;

/// Longest piece of a line: upstream's limit.
pub(crate) const PIECE_MAX: usize = 16 * 1024;
/// Default size at which a log is rotated (kubelet's containerLogMaxSize).
const ROTATE_BYTES: u64 = 10 * 1024 * 1024;
/// Default number of files with the current one (kubelet's containerLogMaxFiles).
const ROTATE_FILES: u32 = 5;
/// Lines are gathered up to this many bytes before they are written: a page, so that a quiet pod stays small.
const GATHER: usize = 4096;

/// Which stream a line came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// An open log.
pub(crate) struct Log {
    path: String<PATH_MAX>,
    file: Option<OwnedFd>,
    size: u64,
    max_bytes: u64,
    max_files: u32,
}

impl Log {
    /// An empty path is no log.
    pub(crate) fn open(path: &str, max_bytes: u64, max_files: u32) -> Log {
        let mut log = Log {
            path: String::try_from(path).unwrap_or_default(),
            file: None,
            size: 0,
            max_bytes: if max_bytes == 0 { ROTATE_BYTES } else { max_bytes },
            max_files: if max_files == 0 { ROTATE_FILES } else { max_files.max(2) },
        };
        log.reopen();
        log
    }

    /// Opens the path anew; without a file, lines are dropped.
    pub(crate) fn reopen(&mut self) {
        if self.path.is_empty() {
            return;
        }
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        self.file = with_c_path(&self.path, |path| rustix::fs::open(path, flags, Mode::from_raw_mode(0o640)).ok());
        self.size = self.file.as_ref().and_then(|f| rustix::fs::fstat(f).ok()).map_or(0, |s| s.st_size as u64);
    }

    /// Writes the complete lines of `bytes` and returns how many bytes it took; `last` takes the rest too.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8], last: bool) -> usize {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let mut header = Vec::<u8, 48>::new();
        let name: &[u8] = if stream == Stream::Out { b" stdout " } else { b" stderr " };
        let _ = header.extend_from_slice(&rfc3339(now.tv_sec, now.tv_nsec as u32));
        let _ = header.extend_from_slice(name);
        let mut gathered = Vec::<u8, GATHER>::new();
        let mut taken = 0;
        while taken < bytes.len() {
            let rest = &bytes[taken..];
            let newline = rest.iter().take(PIECE_MAX).position(|b| *b == b'\n');
            let (piece, tag, used) = match newline {
                Some(at) => (&rest[..at], b"F ", at + 1),
                None if rest.len() >= PIECE_MAX => (&rest[..PIECE_MAX], b"P ", PIECE_MAX),
                None if last => (rest, b"P ", rest.len()),
                None => break,
            };
            self.line(&mut gathered, &header, tag, piece);
            taken += used;
        }
        self.flush(&mut gathered);
        taken
    }

    fn line(&mut self, gathered: &mut Vec<u8, GATHER>, header: &[u8], tag: &[u8], piece: &[u8]) {
        if gathered.len() + header.len() + tag.len() + piece.len() + 1 > GATHER {
            self.flush(gathered);
        }
        for part in [header, tag, piece, b"\n"] {
            if gathered.extend_from_slice(part).is_err() {
                self.flush(gathered);
                self.write_all(part);
            }
        }
    }

    fn flush(&mut self, gathered: &mut Vec<u8, GATHER>) {
        self.write_all(gathered);
        gathered.clear();
        if self.size >= self.max_bytes {
            self.rotate();
        }
    }

    fn write_all(&mut self, mut bytes: &[u8]) {
        let Some(file) = &self.file else { return };
        while !bytes.is_empty() {
            match rustix::io::write(file, bytes) {
                Ok(0) => return,
                Ok(n) => {
                    self.size += n as u64;
                    bytes = &bytes[n..];
                }
                Err(rustix::io::Errno::INTR) => {}
                // A full disk loses log lines, never the container.
                Err(_) => return,
            }
        }
    }

    /// `0.log` becomes `0.log.<YYYYMMDD-HHMMSS>`, as kubelet names it; the oldest go.
    fn rotate(&mut self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let mut aside = String::<{ PATH_MAX + 24 }>::new();
        let stamp = rotation_stamp(now.tv_sec);
        let _ = aside.push_str(&self.path);
        let _ = aside.push('.');
        let _ = aside.push_str(std::str::from_utf8(&stamp).unwrap_or("0"));
        let renamed = with_c_path(&self.path, |from| {
            with_c_path(&aside, |to| {
                let at = rustix::fs::CWD;
                rustix::fs::renameat_with(at, from, at, to, RenameFlags::NOREPLACE).ok()
            })
        });
        // Two rotations in one second: the file grows a little instead.
        if renamed.is_some() {
            self.reopen();
            self.remove_oldest();
        }
    }

    fn remove_oldest(&self) {
        let Some((folder, name)) = self.path.rsplit_once('/') else { return };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Some(folder) = with_c_path(folder, |path| rustix::fs::open(path, flags, Mode::empty()).ok()) else {
            return;
        };
        loop {
            let Some((count, oldest)) = oldest_rotated(folder.as_fd(), name) else { return };
            if count < self.max_files as usize {
                return;
            }
            let _ = rustix::fs::seek(&folder, rustix::fs::SeekFrom::Start(0));
            if with_c_path(&oldest, |path| rustix::fs::unlinkat(&folder, path, rustix::fs::AtFlags::empty()).ok())
                .is_none()
            {
                return;
            }
        }
    }
}

/// How many rotated files there are, and the oldest one's name.
fn oldest_rotated(folder: std::os::fd::BorrowedFd<'_>, name: &str) -> Option<(usize, String<255>)> {
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut entries = RawDir::new(folder, &mut buffer);
    let mut count = 0;
    let mut oldest = String::<255>::new();
    while let Some(entry) = entries.next() {
        let entry = entry.ok()?;
        let Ok(file) = entry.file_name().to_str() else { continue };
        if file.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')) {
            count += 1;
            if oldest.is_empty() || file < oldest.as_str() {
                oldest = String::try_from(file).ok()?;
            }
        }
    }
    (count > 0).then_some((count, oldest))
}

/// Calls with the path as a C string on the stack.
pub(crate) fn with_c_path<T>(path: &str, call: impl FnOnce(&CStr) -> Option<T>) -> Option<T> {
    let mut bytes = Vec::<u8, { PATH_MAX + 64 }>::new();
    bytes.extend_from_slice(path.as_bytes()).ok()?;
    bytes.push(0).ok()?;
    call(CStr::from_bytes_with_nul(&bytes).ok()?)
}

/// Days since 1970 to year, month, day (Howard Hinnant's civil_from_days).
fn civil(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month as u32, (doy - (153 * mp + 2) / 5 + 1) as u32)
}

fn digits(out: &mut [u8], mut value: u64) {
    for slot in out.iter_mut().rev() {
        *slot = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// `2026-11-22T03:46:55.000000001Z`.
fn rfc3339(seconds: i64, nanos: u32) -> [u8; 30] {
    let mut out = *b"0000-00-00T00:00:00.000000000Z";
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let clock = seconds.rem_euclid(86_400) as u64;
    digits(&mut out[0..4], year as u64);
    digits(&mut out[5..7], u64::from(month));
    digits(&mut out[8..10], u64::from(day));
    digits(&mut out[11..13], clock / 3600);
    digits(&mut out[14..16], clock / 60 % 60);
    digits(&mut out[17..19], clock % 60);
    digits(&mut out[20..29], u64::from(nanos));
    out
}

/// `20261122-034655`.
fn rotation_stamp(seconds: i64) -> [u8; 15] {
    let mut out = *b"00000000-000000";
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let clock = seconds.rem_euclid(86_400) as u64;
    digits(&mut out[0..4], year as u64);
    digits(&mut out[4..6], u64::from(month));
    digits(&mut out[6..8], u64::from(day));
    digits(&mut out[9..11], clock / 3600);
    digits(&mut out[11..13], clock / 60 % 60);
    digits(&mut out[13..15], clock % 60);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("bramble-log-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn texts(path: &std::path::Path) -> std::vec::Vec<std::string::String> {
        let log = std::fs::read_to_string(path).unwrap();
        log.lines().map(|l| l.split_once(' ').unwrap().1.to_string()).collect()
    }

    #[test]
    fn times_are_written_as_upstream_writes_them() {
        assert_eq!(&rfc3339(1_795_319_215, 7), b"2026-11-22T03:46:55.000000007Z");
        assert_eq!(&rfc3339(951_782_400, 0), b"2000-02-29T00:00:00.000000000Z");
        assert_eq!(&rotation_stamp(1_795_319_215), b"20261122-034655");
    }

    #[test]
    fn lines_are_full_and_long_lines_partial() {
        let dir = scratch("partial");
        let path = dir.join("0.log");
        let mut log = Log::open(path.to_str().unwrap(), 0, 0);
        assert_eq!(log.write(Stream::Out, b"one\ntwo\nthr", false), 8);
        assert_eq!(log.write(Stream::Err, b"three", true), 5);
        let long = vec![b'x'; PIECE_MAX + 3];
        assert_eq!(log.write(Stream::Out, &long, false), PIECE_MAX);
        let lines = texts(&path);
        assert_eq!(lines[..3], ["stdout F one", "stdout F two", "stderr P three"]);
        assert_eq!(lines[3].len(), "stdout P ".len() + PIECE_MAX);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_log_is_rotated_and_only_so_many_files_stay() {
        let dir = scratch("rotate");
        let path = dir.join("0.log");
        for old in ["20200101-000000", "20200101-000001", "20200101-000002"] {
            std::fs::write(dir.join(format!("0.log.{old}")), "old").unwrap();
        }
        let mut log = Log::open(path.to_str().unwrap(), 100, 3);
        for _ in 0..4 {
            log.write(Stream::Out, b"a line that is long enough to fill the file soon\n", false);
        }
        let mut names: std::vec::Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(names[1], "0.log.20200101-000002");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
