use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::*;

/// A folder of this test's own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bramble-unpack-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn header(kind: EntryType, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header
}

/// A tar made by hand, so that hostile names get past the writer's own checks.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        let mut header = header(kind, content.len() as u64, 0o640);
        let raw = header.as_old_mut();
        raw.name[..name.len()].copy_from_slice(name);
        raw.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn unpacked(folder: &Folder, tar: &[u8]) -> Result<u64, UnpackError> {
    unpack(tar, &folder.0, &[], &Expected { digest: None, diff_id: Digest::of(tar) })
}

#[test]
fn a_gzipped_layer_keeps_modes_links_and_times() {
    let folder = Folder::new("modes");
    let tar = Tar::new()
        .entry(EntryType::Directory, b"usr/", b"", b"")
        .entry(EntryType::Regular, b"usr/bin/tool", b"", b"#!/bin/sh\n")
        .entry(EntryType::Link, b"usr/bin/same", b"usr/bin/tool", b"")
        .entry(EntryType::Symlink, b"bin", b"usr/bin", b"")
        .bytes();
    let wire = gzip(&tar);
    let expected = Expected { digest: Some(Digest::of(&wire)), diff_id: Digest::of(&tar) };
    assert_eq!(unpack(wire.as_slice(), &folder.0, &[], &expected).unwrap(), 10);
    let tool = folder.0.join("usr/bin/tool").metadata().unwrap();
    assert_eq!((tool.permissions().mode() & 0o777, tool.nlink(), tool.mtime()), (0o640, 2, 1_700_000_000));
    assert_eq!(std::fs::read_link(folder.0.join("bin")).unwrap(), PathBuf::from("usr/bin"));
    assert_eq!(folder.0.join("usr").metadata().unwrap().mtime(), 1_700_000_000);
}

#[test]
fn other_bytes_than_promised_are_refused() {
    let folder = Folder::new("digest");
    let tar = Tar::new().entry(EntryType::Regular, b"a", b"", b"x").bytes();
    let expected = Expected { digest: None, diff_id: Digest::of(b"other") };
    assert!(matches!(unpack(tar.as_slice(), &folder.0, &[], &expected), Err(UnpackError::Digest { .. })));
}

#[test]
fn whiteouts_take_overlayfs_form() {
    let folder = Folder::new("whiteout");
    let tar = Tar::new()
        .entry(EntryType::Regular, b"etc/.wh.passwd", b"", b"")
        .entry(EntryType::Regular, b"var/.wh..wh..opq", b"", b"")
        .bytes();
    unpacked(&folder, &tar).unwrap();
    let gone = std::fs::symlink_metadata(folder.0.join("etc/passwd")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0; 4];
    let size = rustix::fs::getxattr(folder.0.join("var"), "trusted.overlay.opaque", value.as_mut_slice()).unwrap();
    assert_eq!(&value[..size], b"y");
}

#[test]
fn nothing_leaves_the_folder() {
    let outside = Folder::new("outside");
    let victim = outside.0.join("victim");
    std::fs::write(&victim, "safe").unwrap();
    let escape = outside.0.to_str().unwrap().as_bytes().to_vec();
    for (number, tar) in [
        Tar::new().entry(EntryType::Regular, b"../victim", b"", b"bad"),
        Tar::new().entry(EntryType::Symlink, b"out", &escape, b"").entry(
            EntryType::Regular,
            b"out/victim",
            b"",
            b"bad",
        ),
        Tar::new().entry(EntryType::Symlink, b"victim", &[escape.as_slice(), b"/victim"].concat(), b"").entry(
            EntryType::Regular,
            b"victim",
            b"",
            b"bad",
        ),
        Tar::new().entry(EntryType::Link, b"stolen", &[escape.as_slice(), b"/victim"].concat(), b""),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = Folder::new(&format!("inside-{number}"));
        let _ = unpacked(&folder, &tar.bytes());
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "safe", "case {number}");
        assert!(!folder.0.join("stolen").exists(), "case {number}");
    }
}

#[test]
fn folders_without_an_entry_inherit_from_the_parent_layer() {
    let (parent, folder) = (Folder::new("parent"), Folder::new("child"));
    std::fs::create_dir(parent.0.join("tmp")).unwrap();
    std::fs::set_permissions(parent.0.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    let tar = Tar::new().entry(EntryType::Regular, b"tmp/file", b"", b"x").bytes();
    let expected = Expected { digest: None, diff_id: Digest::of(&tar) };
    unpack(tar.as_slice(), &folder.0, std::slice::from_ref(&parent.0), &expected).unwrap();
    assert_eq!(folder.0.join("tmp").metadata().unwrap().permissions().mode() & 0o7777, 0o1777);
}

#[test]
fn a_tar_without_its_end_is_taken() {
    let folder = Folder::new("padding");
    let mut tar = Tar::new().entry(EntryType::Regular, b"a", b"", b"x").bytes();
    tar.truncate(1024);
    unpacked(&folder, &tar).unwrap();
    assert_eq!(std::fs::read(folder.0.join("a")).unwrap(), b"x");
}

#[test]
fn a_huge_extended_header_is_refused_before_it_is_read() {
    let folder = Folder::new("pax");
    let mut bytes = Vec::new();
    let mut header = header(EntryType::XHeader, 1 << 30, 0o644);
    header.set_path("pax").unwrap();
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(3 << 20, b'1');
    assert!(matches!(unpacked(&folder, &bytes), Err(UnpackError::Entry { .. })));
}
