//! Shell: the kernel's knobs below /proc/sys/net of the namespace that we run in.

use std::io;

/// What `net/<key>` is; none where there is no such knob.
pub(crate) fn get(key: &str) -> Option<String> {
    Some(std::fs::read_to_string(format!("/proc/sys/net/{key}")).ok()?.trim().to_owned())
}

/// Sets `net/<key>` unless it has the value already, so that a read-only /proc with right values is enough.
pub(crate) fn set(key: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/{key}");
    if get(key).is_some_and(|now| now == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}
