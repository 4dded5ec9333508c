//! Pure: whether an ended container runs again, and when.

use super::ContainerKind;
use super::spec::Container;
use super::state::{Instance, RestartBackoff};

/// When to restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Now,
    At(i64),
}

pub(crate) fn decide(former: Option<RestartBackoff>, finished_ms: i64, now_ms: i64) -> Decision {
    let at_ms = RestartBackoff::allowed_at(former, finished_ms);
    if at_ms <= now_ms { Decision::Now } else { Decision::At(at_ms) }
}

/// The restart policy's word on an ended container.
pub(crate) fn restarts(policy: &str, kind: ContainerKind, container: &Container, ended: &Instance) -> bool {
    match kind {
        ContainerKind::Ephemeral => false,
        ContainerKind::Init if container.is_sidecar() => true,
        // An init container that succeeded is done, whatever the policy.
        ContainerKind::Init => !ended.succeeded() && policy != "Never",
        ContainerKind::Main => match container.restart_policy.as_deref().unwrap_or(policy) {
            "Never" => false,
            "OnFailure" => !ended.succeeded(),
            _ => true,
        },
    }
}

/// Go's way to print a duration of whole seconds: `10s`, `1m20s`, `5m0s`.
pub(crate) fn go_duration(ms: i64) -> String {
    let seconds = ms / 1000;
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_look_like_gos() {
        assert_eq!(go_duration(10_000), "10s");
        assert_eq!(go_duration(80_000), "1m20s");
        assert_eq!(go_duration(300_000), "5m0s");
    }
}
