//! Shell: images, brought beside the pod's task so that a deletion need not wait for them.

use serde_json::Value;

use super::super::backoff::go_duration;
use super::super::plan::pull_policy;
use super::super::state::{BACKOFF_FIRST_MS, BACKOFF_MOST_MS, Pull};
use super::super::{Credential, ImageRef, ImageRequest, PullError, PullPolicy};
use super::{Message, Worker};

impl Worker {
    pub(super) fn pull(&mut self, name: String) {
        let Some((_, container)) = self.pod.container(&name) else { return };
        let request = ImageRequest {
            reference: container.image.clone(),
            policy: pull_policy(container),
            credentials: self.credentials(),
        };
        // A failure that is tried again keeps its delay.
        let delayed = match self.memory.images.get(&name) {
            Some(Pull::Failed { delay_ms, .. }) => Some(*delay_ms),
            _ => None,
        };
        if let Some(delay_ms) = delayed {
            self.delays.insert(name.clone(), delay_ms);
        }
        self.memory.images.insert(name.clone(), Pull::Running);
        let (board, sender, pod) = (self.board.clone(), self.sender.clone(), self.pod.clone());
        tokio::spawn(async move {
            let reference = request.reference.clone();
            let present = request.policy != PullPolicy::Always && board.images.status(&reference).await.is_some();
            if !present && request.policy != PullPolicy::Never {
                board.recorder.normal(&pod, Some(&name), "Pulling", format!("Pulling image \"{reference}\""));
            }
            let began_ms = board.now_ms();
            let result = board.images.ensure(&request).await.map(Box::new);
            let took_ms = board.now_ms() - began_ms;
            let message = Message::Pulled { name, reference, result, took_ms: if present { -1 } else { took_ms } };
            Self::tell(&sender, message).await;
        });
    }

    /// `took_ms` is negative when the image was there already.
    pub(super) fn pulled(
        &mut self,
        name: String,
        reference: String,
        result: Result<Box<ImageRef>, PullError>,
        took_ms: i64,
    ) {
        let recorder = &self.board.recorder;
        match result {
            Ok(image) => {
                let message = if took_ms < 0 {
                    format!("Container image \"{reference}\" already present on machine and can be accessed by the pod")
                } else {
                    let took = go_seconds(took_ms);
                    format!(
                        "Successfully pulled image \"{reference}\" in {took} ({took} including waiting). Image size: {} bytes.",
                        image.size
                    )
                };
                recorder.normal(&self.pod, Some(&name), "Pulled", message);
                self.delays.remove(&name);
                self.memory.images.insert(name, Pull::Ready(reference, image));
            }
            Err(error) => {
                let message = match &error {
                    PullError::NeverPull(_) | PullError::InvalidName(_) => error.to_string(),
                    _ => format!("Failed to pull image \"{reference}\": {error}"),
                };
                recorder.warning(&self.pod, Some(&name), "Failed", message);
                recorder.warning(&self.pod, Some(&name), "Failed", format!("Error: {}", error.reason()));
                let former = self.delays.get(&name).copied();
                let delay_ms = former.map_or(BACKOFF_FIRST_MS, |delay| (delay * 2).min(BACKOFF_MOST_MS));
                let back_off = format!("Back-off pulling image \"{reference}\": {}: {error}", error.reason());
                recorder.normal(&self.pod, Some(&name), "BackOff", back_off);
                tracing::debug!(delay = go_duration(delay_ms), "the next pull");
                self.memory.images.insert(name, Pull::Failed { error, delay_ms, at_ms: self.board.now_ms() });
            }
        }
    }

    fn credentials(&self) -> Vec<Credential> {
        let names = self.pod.spec.image_pull_secrets.iter().map(|secret| secret.name.clone()).collect();
        let sources = self.board.references.sources(&self.pod.metadata.namespace, &Default::default(), &names);
        let Some(mut sources) = sources else { return Vec::new() };
        let in_order =
            self.pod.spec.image_pull_secrets.iter().filter_map(|secret| sources.secrets.remove(&secret.name)?);
        in_order.flat_map(|secret| of_secret(&secret)).collect()
    }
}

/// `750ms`, `1.5s`, `1m5.25s`: as Go prints a duration.
fn go_seconds(ms: i64) -> String {
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (minutes, rest) = (ms / 60_000, ms % 60_000);
    let mut seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    seconds.truncate(seconds.trim_end_matches('0').trim_end_matches('.').len());
    if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
}

/// The entries of a `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg` secret.
fn of_secret(secret: &Value) -> Vec<Credential> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let data = super::super::env::data(secret);
    let parse = |key: &str| data.get(key).and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    let entries = parse(".dockerconfigjson").map(|mut config| config["auths"].take()).or_else(|| parse(".dockercfg"));
    let Some(Value::Object(entries)) = entries else { return Vec::new() };
    let one = |(registry, entry): (String, Value)| {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let decoded = STANDARD.decode(text("auth")).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let (username, password) = match decoded.as_deref().and_then(|pair| pair.split_once(':')) {
            Some((username, password)) => (username.to_owned(), password.to_owned()),
            None => (text("username"), text("password")),
        };
        Credential { registry, username, password, identity_token: text("identitytoken") }
    };
    entries.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

    #[test]
    fn pull_secrets_are_read_in_both_forms() {
        let config = json!({"auths": {"r.example": {"auth": STANDARD.encode("u:p:q")}}}).to_string();
        let secret = json!({"kind": "Secret", "data": {".dockerconfigjson": STANDARD.encode(config)}});
        let all = of_secret(&secret);
        assert_eq!((all[0].username.as_str(), all[0].password.as_str()), ("u", "p:q"));
        let old = json!({"r.example": {"username": "u", "password": "p"}}).to_string();
        let secret = json!({"kind": "Secret", "data": {".dockercfg": STANDARD.encode(old)}});
        assert_eq!(of_secret(&secret)[0].password, "p");
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(
            (go_seconds(750), go_seconds(1500), go_seconds(65_250)),
            ("750ms".into(), "1.5s".into(), "1m5.25s".into())
        );
    }
}
