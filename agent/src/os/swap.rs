//! Shell: compressed swap in memory: a board of 512 MB holds half as much again, and the card is never swapped to.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::kernel;

const DEVICE: &str = "/dev/zram0";
const SIZE: &str = "/sys/block/zram0/disksize";
/// So much of the memory, before compression.
const SHARE: u64 = 2;

/// Makes and uses it; the module is loaded.
///
/// # Errors
/// The kernel's.
pub fn start() -> io::Result<()> {
    let page = rustix::param::page_size();
    let text = fs::read_to_string("/proc/meminfo")?;
    let kilobytes =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    let bytes: u64 = kilobytes.map_or(0, |kilobytes: u64| kilobytes * 1024 / SHARE);
    let pages = bytes / page as u64;
    fs::write(SIZE, (pages * page as u64).to_string())?;
    File::options().write(true).open(DEVICE)?.write_all_at(&header(page, pages), 0)?;
    kernel::swap_on(Path::new(DEVICE))
}

/// The first page of a swap area (linux/swap.h): version 1, its last page, the mark at the page's end.
fn header(page: usize, pages: u64) -> Vec<u8> {
    let mut header = vec![0; page];
    let last = u32::try_from(pages.saturating_sub(1)).unwrap_or(u32::MAX);
    header[1024..1028].copy_from_slice(&1_u32.to_ne_bytes());
    header[1028..1032].copy_from_slice(&last.to_ne_bytes());
    header[page - 10..].copy_from_slice(b"SWAPSPACE2");
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_one_that_tools_know() {
        let header = header(4096, 100);
        assert_eq!((header.len(), &header[4086..]), (4096, &b"SWAPSPACE2"[..]));
        assert_eq!(header[1028..1032], 99_u32.to_ne_bytes());
    }
}
