//! Shell: what passes between a client's stream and a container, whatever the protocol on the wire.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Chunks on their way in one direction: a slow client holds the container back instead of filling memory.
pub(crate) const CHUNKS: usize = 8;

/// What the client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// Bytes for standard input.
    Stdin(Bytes),
    /// No more of them.
    StdinEnd,
    /// The terminal's new size, columns and rows.
    Resize(u16, u16),
}

/// What the client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// Bytes of standard output.
    Stdout(Bytes),
    /// Bytes of standard error.
    Stderr(Bytes),
    /// The end: a `metav1.Status`.
    Status(Value),
}

/// The container's side of a client's stream. When `input` ends, the client is gone.
pub(crate) struct Remote {
    pub(crate) input: mpsc::Receiver<Input>,
    pub(crate) output: mpsc::Sender<Output>,
}

/// The protocol's side.
pub(crate) struct Wire {
    pub(crate) input: mpsc::Sender<Input>,
    pub(crate) output: mpsc::Receiver<Output>,
}

/// Which streams the client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
}

pub(crate) fn pair() -> (Remote, Wire) {
    let (send_input, input) = mpsc::channel(CHUNKS);
    let (output, receive_output) = mpsc::channel(CHUNKS);
    (Remote { input, output }, Wire { input: send_input, output: receive_output })
}

/// The status that ends an exec or attach: success, or upstream's `NonZeroExitCode`.
pub(crate) fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

/// The status of an exec that did not come to run.
pub(crate) fn failure_status(message: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    })
}

/// A resize message: `{"Width": 80, "Height": 24}`.
pub(crate) fn parse_resize(bytes: &[u8]) -> Option<Input> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let side = |name: &str| u16::try_from(value.get(name)?.as_u64()?).ok();
    Some(Input::Resize(side("Width")?, side("Height")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_reaches_kubectl_where_it_looks() {
        let status = exit_status(7);
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "7"}));
        assert_eq!(exit_status(0)["status"], "Success");
    }

    #[test]
    fn sizes_are_read_as_the_clients_write_them() {
        assert_eq!(parse_resize(br#"{"Width":120,"Height":40}"#), Some(Input::Resize(120, 40)));
        assert_eq!(parse_resize(br#"{"Width":1200000,"Height":40}"#), None);
        assert_eq!(parse_resize(b"nonsense"), None);
    }
}
