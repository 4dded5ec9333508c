//! Shell: bootstrap tokens through the API: created, listed, revoked; and the one-time token for the agent beside us.

use serde_json::Value;

use crate::authn::bootstrap_token::{SECRET_TYPE, data, from_random, is_expired, secret, secret_name, split};
use crate::authn::tokens::Secret;
use crate::client::{Client, ClientError, DeleteOptions, ListOptions, Resource};
use crate::pki::PkiError;
use crate::pki::key::random;

const SECRETS: Resource = Resource::new("", "v1", "secrets");
const NAMESPACE: &str = "kube-system";

/// What `bramble token list` shows of a token: never the secret half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// The public half.
    pub id: String,
    /// RFC 3339; empty for ever.
    pub expires: String,
    /// Whether it has ended.
    pub expired: bool,
    /// What it is for.
    pub description: String,
}

/// Why a token was not made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] PkiError),
    /// The API server refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Not `[a-z0-9]{6}`, with or without its secret half.
    #[error("{0:?} is no token id")]
    Id(String),
}

/// Makes a token that admits boards until `expires_at` (seconds since 1970; `None` for ever).
pub async fn create(client: &Client, expires_at: Option<i64>, description: &str) -> Result<Secret, TokenError> {
    let token = from_random(random()?);
    let object = secret(&token, expires_at, description, &[]).ok_or_else(|| TokenError::Id(String::new()))?;
    client.create(&SECRETS, Some(NAMESPACE), &object).await?;
    Ok(Secret::new(token))
}

/// As [`create`], and revokes what was made before for the same purpose: the token that `up` hands to the agent beside it.
pub async fn replace(client: &Client, expires_at: Option<i64>, description: &str) -> Result<Secret, TokenError> {
    for former in list(client, 0).await?.iter().filter(|token| token.description == description) {
        match revoke(client, &former.id).await {
            Err(TokenError::Client(error)) if error.is_not_found() => {}
            result => result?,
        }
    }
    create(client, expires_at, description).await
}

/// All tokens. `now` is seconds since 1970.
pub async fn list(client: &Client, now: i64) -> Result<Vec<TokenInfo>, TokenError> {
    let options = ListOptions { field_selector: format!("type={SECRET_TYPE}"), ..ListOptions::default() };
    let found = client.list(&SECRETS, Some(NAMESPACE), &options).await?;
    let ours = found.items.iter().filter(|item| item.get("type").and_then(Value::as_str) == Some(SECRET_TYPE));
    let info = |item: &Value| TokenInfo {
        id: data(item, "token-id"),
        expires: data(item, "expiration"),
        expired: is_expired(item, now),
        description: data(item, "description"),
    };
    Ok(ours.map(info).collect())
}

/// Revokes a token by its id or its whole text.
pub async fn revoke(client: &Client, token: &str) -> Result<(), TokenError> {
    let id = split(token).map_or(token, |(id, _)| id);
    let plain = id.len() == 6 && id.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    if !plain {
        return Err(TokenError::Id(id.to_owned()));
    }
    client.delete(&SECRETS, Some(NAMESPACE), &secret_name(id), &DeleteOptions::default()).await?;
    Ok(())
}
