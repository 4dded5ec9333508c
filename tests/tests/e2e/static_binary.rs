//! `.cargo/config.toml` alone makes the binary static: it runs in a root that holds nothing but itself.

use std::process::Command;

use bramble_tests::host::{binary, succeed};

#[test]
fn the_binary_runs_in_an_empty_root() {
    let root = std::env::temp_dir().join(format!("bramble-empty-{}", std::process::id()));
    std::fs::create_dir_all(&root).expect("a directory of this test's own");
    std::fs::copy(binary(), root.join("bramble")).expect("copied");
    let version = succeed(Command::new("chroot").arg(&root).args(["/bramble", "--version"]));
    std::fs::remove_dir_all(&root).expect("removed");
    assert!(version.starts_with("bramble "), "{version}");
}
