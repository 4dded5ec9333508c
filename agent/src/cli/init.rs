//! Shell: `bramble init`, process 1 of a flashed board, and the verbs that ask it for the end.

use std::process::ExitCode;

use anyhow::{Context, bail};
use bramble_agent::os;
use rustix::process::{Pid, Signal, kill_process};

pub(crate) fn init() -> anyhow::Result<ExitCode> {
    if std::process::id() != 1 {
        bail!("this is process 1 of a flashed board; `bramble up` starts a board on another system");
    }
    os::init::run()
}

pub(crate) fn reboot(off: bool) -> anyhow::Result<ExitCode> {
    let line = std::fs::read("/proc/1/cmdline").unwrap_or_default();
    if !line.ends_with(b"init\0") || !line.starts_with(b"/bin/bramble\0") {
        bail!("this is no flashed board: use the system's own `reboot` or `poweroff`");
    }
    let signal = if off { Signal::USR2 } else { Signal::TERM };
    let one = Pid::from_raw(1).context("process 1")?;
    kill_process(one, signal).context("cannot ask process 1 (are you root?)")?;
    Ok(ExitCode::SUCCESS)
}
