//! Shell: the kernel's knobs below /proc/sys/net of the namespace that we run in.

use std::io;

/// Sets `net/<key>` unless it has the value already, so that a read-only /proc with right values is enough.
pub(crate) fn set(key: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/{key}");
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}
