//! Shell: service-account tokens of projected volumes: asked for, kept in memory, renewed at 80 % of their life.
//!
//! A board that starts without its controller gets none, and starts its pods all the same: their token's file is empty
//! until somebody answers. Who reads it speaks to the API server, which is away just as well.

use std::collections::BTreeMap;

use serde_json::json;
use tracing::warn;

use super::content::token_requests;
use crate::link::{Link, LinkError};
use crate::pods::spec::Pod;
use crate::pods::time::parse_rfc3339;

/// A token older than this is renewed whatever its life, as upstream's.
const MAX_AGE_MS: i64 = 24 * 3600 * 1000;

/// How long a pod waits for a server that cannot be reached: longer than a controller takes to start again.
const PATIENCE_MS: i64 = 5_000;
/// After that long a token that nobody gave is asked for again.
const ABSENT_MS: i64 = 10_000;

/// The tokens of one pod.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    all: BTreeMap<(String, String), Token>,
    /// Since when nobody answers.
    unanswered_since_ms: Option<i64>,
}

#[derive(Debug)]
struct Token {
    text: String,
    renew_at_ms: i64,
    until_ms: i64,
}

impl Tokens {
    /// Asks for what is missing or due. A token that cannot be renewed is used while it lives.
    pub(crate) async fn refresh(&mut self, link: &Link, pod: &Pod, now_ms: i64) -> Result<(), LinkError> {
        for (path, audience, seconds) in token_requests(pod) {
            let key = (path, audience);
            if self.all.get(&key).is_some_and(|token| token.renew_at_ms > now_ms) {
                continue;
            }
            match request(link, pod, &key.1, seconds, now_ms).await {
                Ok(token) => {
                    self.unanswered_since_ms = None;
                    self.all.insert(key, token);
                }
                Err(error) => self.do_without(key, error, pod, now_ms)?,
            }
        }
        Ok(())
    }

    /// Goes on with a token that still lives; with none while the server is away for longer than a restart takes.
    fn do_without(&mut self, key: (String, String), error: LinkError, pod: &Pod, now_ms: i64) -> Result<(), LinkError> {
        if let Some(token) = self.all.get_mut(&key).filter(|token| token.until_ms > now_ms) {
            warn!(pod = %pod.display(), %error, "renewing a token");
            token.renew_at_ms = now_ms + 60_000;
            return Ok(());
        }
        let since_ms = *self.unanswered_since_ms.get_or_insert(now_ms);
        if !matches!(error, LinkError::Unreachable(_)) || now_ms - since_ms < PATIENCE_MS {
            return Err(error);
        }
        let absent = Token { text: String::new(), renew_at_ms: now_ms + ABSENT_MS, until_ms: 0 };
        if self.all.insert(key, absent).is_none() {
            warn!(pod = %pod.display(), %error, "it starts without a token");
        }
        Ok(())
    }

    /// When the next one is due.
    pub(crate) fn next_ms(&self) -> Option<i64> {
        self.all.values().map(|token| token.renew_at_ms).min()
    }

    /// The texts by path and audience.
    pub(crate) fn texts(&self) -> BTreeMap<(String, String), String> {
        self.all.iter().map(|(key, token)| (key.clone(), token.text.clone())).collect()
    }
}

async fn request(link: &Link, pod: &Pod, audience: &str, seconds: u64, now_ms: i64) -> Result<Token, LinkError> {
    let meta = &pod.metadata;
    let account = if pod.spec.service_account_name.is_empty() { "default" } else { &pod.spec.service_account_name };
    let audiences: Vec<&str> = if audience.is_empty() { Vec::new() } else { vec![audience] };
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": audiences,
            "expirationSeconds": seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta.name, "uid": meta.uid},
        },
    });
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", meta.namespace);
    let answer = link.create(&path, &body).await?;
    let text = answer["status"]["token"].as_str().unwrap_or_default().to_owned();
    let life_ms = i64::try_from(answer["spec"]["expirationSeconds"].as_u64().unwrap_or(seconds)).unwrap_or(3600) * 1000;
    let until_ms = answer["status"]["expirationTimestamp"].as_str().and_then(parse_rfc3339).unwrap_or(now_ms + life_ms);
    Ok(Token {
        text,
        renew_at_ms: now_ms + (life_ms / 5 * 4).min(MAX_AGE_MS),
        until_ms: until_ms.max(now_ms + life_ms / 5 * 4),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::link::{Sending, Transport};

    /// A server that is there or not.
    struct Server(Arc<AtomicBool>);

    impl Transport for Server {
        fn send(&self, _request: Request<Full<Bytes>>) -> Sending<'_> {
            let there = self.0.load(Ordering::Relaxed);
            Box::pin(async move {
                let answer = r#"{"spec":{"expirationSeconds":3600},"status":{"token":"jwt"}}"#;
                let body = Full::new(Bytes::from(answer)).map_err(|never| match never {}).boxed_unsync();
                if there { Ok(Response::new(body)) } else { Err(LinkError::Unreachable("nobody".to_owned())) }
            })
        }
    }

    #[tokio::test]
    async fn a_pod_starts_without_a_token_when_nobody_gives_one_and_gets_it_later() {
        let there = Arc::new(AtomicBool::new(false));
        let link = Link::new(Arc::new(Server(there.clone())));
        let pod = Pod::read(&json!({"metadata": {"namespace": "n"}, "spec": {"volumes": [
            {"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]}}))
        .unwrap();
        let mut tokens = Tokens::default();
        assert!(tokens.refresh(&link, &pod, 1_000).await.is_err(), "a controller may just be starting again");
        tokens.refresh(&link, &pod, 1_000 + PATIENCE_MS).await.unwrap();
        let text = |tokens: &Tokens| tokens.texts().into_values().next().unwrap();
        assert_eq!(text(&tokens), "");
        let again_ms = tokens.next_ms().unwrap();
        there.store(true, Ordering::Relaxed);
        tokens.refresh(&link, &pod, again_ms).await.unwrap();
        assert_eq!(text(&tokens), "jwt");
        there.store(false, Ordering::Relaxed);
        tokens.refresh(&link, &pod, again_ms + 3_500_000).await.expect("a token that lives is used");
        assert_eq!(text(&tokens), "jwt");
    }
}
