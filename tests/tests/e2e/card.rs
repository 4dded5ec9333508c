//! `bramble image flash` on loop devices of this test's own: writes, reads back, refuses what is in use.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use bramble_tests::host::{binary, need, output, succeed};

/// A loop device over a file. Dropping it detaches and removes both.
struct Loop {
    file: PathBuf,
    device: String,
}

impl Loop {
    fn new(name: &str, mebibytes: u64) -> Self {
        need("losetup", "mount");
        let file = std::env::temp_dir().join(format!("bramble-card-{name}-{}", std::process::id()));
        fs::File::create(&file).and_then(|made| made.set_len(mebibytes << 20)).expect("a file");
        let device = succeed(Command::new("losetup").args(["--find", "--show"]).arg(&file));
        Self { file, device: device.trim().to_owned() }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = output(Command::new("losetup").args(["--detach", &self.device]));
        let _ = fs::remove_file(&self.file);
    }
}

fn flash(image: &std::path::Path, device: &str) -> Output {
    output(Command::new(binary()).args(["image", "flash"]).arg(image).arg(device))
}

#[test]
fn a_card_is_written_and_compared_and_one_in_use_is_refused() {
    let card = Loop::new("written", 24);
    let image = std::env::temp_dir().join(format!("bramble-image-{}", std::process::id()));
    let bytes: Vec<u8> =
        (0..20_u32 << 18).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(&image, &bytes).expect("written");
    let told = flash(&image, &card.device);
    let words = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success() && words.contains("20 MiB written and compared"), "{words}");
    assert_eq!(fs::read(&card.file).expect("readable")[..bytes.len()], bytes);

    // Too small, and nothing of it is touched.
    let small = Loop::new("small", 8);
    let told = flash(&image, &small.device);
    assert!(!told.status.success() && String::from_utf8_lossy(&told.stderr).contains("the card 8388608"), "{told:?}");
    assert!(fs::read(&small.file).expect("readable").iter().all(|byte| *byte == 0));

    // Mounted, in a mount namespace of its own that ends with the command.
    let _ = succeed(Command::new("mke2fs").args(["-q", &small.device]));
    let line = format!("mount {} /mnt && exec \"$0\" image flash \"$1\" {}", small.device, small.device);
    let mut mounted = Command::new("unshare");
    mounted.args(["--mount", "--propagation", "private", "sh", "-c", &line]).arg(binary()).arg(&image);
    let told = output(&mut mounted);
    let words = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(
        !told.status.success() && words.contains("is mounted at /mnt") && words.contains("nothing was written"),
        "{words}"
    );

    let told = flash(&image, "/dev/null");
    assert!(String::from_utf8_lossy(&told.stderr).contains("is no disk"), "{told:?}");
    let _ = fs::remove_file(image);
}
