//! Shell: a board that hangs is reset by its hardware.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

const DEVICE: &str = "/dev/watchdog";
/// The hardware resets after so many seconds without a word; the Pi's cannot wait longer than 15.
const LIMIT_SECONDS: i32 = 15;
/// One wake-up each.
const PERIOD: Duration = Duration::from_secs(7);

/// Holds the watchdog; it is disarmed when the future is dropped. Boards without one go on without.
pub async fn run() {
    let Ok(device) = File::options().write(true).open(DEVICE) else { return };
    let mut dog = Dog(device);
    if let Err(error) = dog.limit(LIMIT_SECONDS) {
        tracing::warn!(%error, "the watchdog keeps its own limit");
    }
    loop {
        if let Err(error) = dog.0.write_all(b"\0") {
            tracing::warn!(%error, "the watchdog");
        }
        tokio::time::sleep(PERIOD).await;
    }
}

struct Dog(File);

impl Dog {
    fn limit(&self, seconds: i32) -> io::Result<()> {
        const SET_TIMEOUT: Opcode = opcode::read_write::<i32>(b'W', 6);
        let mut seconds = seconds;
        // SAFETY: the kernel reads one number and writes it back as it took it.
        Ok(unsafe { ioctl(&self.0, Updater::<SET_TIMEOUT, i32>::new(&mut seconds)) }?)
    }
}

impl Drop for Dog {
    fn drop(&mut self) {
        // By this letter the kernel knows that it is meant.
        let _ = self.0.write_all(b"V");
    }
}
