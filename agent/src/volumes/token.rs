//! Shell: service-account tokens of projected volumes: asked for, kept in memory, renewed at 80 % of their life.

use std::collections::BTreeMap;

use serde_json::json;
use tracing::warn;

use super::content::token_requests;
use crate::link::{Link, LinkError};
use crate::pods::spec::Pod;
use crate::pods::time::parse_rfc3339;

/// A token older than this is renewed whatever its life, as upstream's.
const MAX_AGE_MS: i64 = 24 * 3600 * 1000;

/// The tokens of one pod.
#[derive(Debug, Default)]
pub(crate) struct Tokens(BTreeMap<(String, String), Token>);

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
            if self.0.get(&key).is_some_and(|token| token.renew_at_ms > now_ms) {
                continue;
            }
            match request(link, pod, &key.1, seconds, now_ms).await {
                Ok(token) => {
                    self.0.insert(key, token);
                }
                Err(error) => match self.0.get_mut(&key).filter(|token| token.until_ms > now_ms) {
                    Some(token) => {
                        warn!(pod = %pod.display(), %error, "renewing a token");
                        token.renew_at_ms = now_ms + 60_000;
                    }
                    None => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// When the next one is due.
    pub(crate) fn next_ms(&self) -> Option<i64> {
        self.0.values().map(|token| token.renew_at_ms).min()
    }

    /// The texts by path and audience.
    pub(crate) fn texts(&self) -> BTreeMap<(String, String), String> {
        self.0.iter().map(|(key, token)| (key.clone(), token.text.clone())).collect()
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
