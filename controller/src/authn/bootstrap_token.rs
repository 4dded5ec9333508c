//! Pure: bootstrap tokens `[a-z0-9]{6}.[a-z0-9]{16}`: Secrets in kube-system of type `bootstrap.kubernetes.io/token`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::constant_time_eq;
use crate::identity::Identity;
use crate::object::time;

/// The type of the Secrets.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// The group of everybody who shows a bootstrap token.
const GROUP: &str = "system:bootstrappers";

/// The name of the Secret of a token id.
pub fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// Id and secret of a well-formed token.
pub fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// A token from random bytes. The slight bias of the modulus costs less than a bit of the 82.
pub fn from_random(bytes: [u8; 22]) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut text: String = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect();
    text.insert(6, '.');
    text
}

/// Who shows this token, if the Secret vouches for it at `now`; the error is for the log and holds no secret.
pub fn authenticate(token: &str, secret: &Value, now: i64) -> Result<Identity, &'static str> {
    let (id, shown) = split(token).ok_or("malformed")?;
    if secret.pointer("/metadata/deletionTimestamp").is_some() {
        return Err("the Secret is deleted and awaiting removal");
    }
    if secret.get("type").and_then(Value::as_str) != Some(SECRET_TYPE) {
        return Err("the Secret has the wrong type");
    }
    if !constant_time_eq(data(secret, "token-secret").as_bytes(), shown.as_bytes()) {
        return Err("wrong token-secret");
    }
    if data(secret, "token-id") != id {
        return Err("wrong token-id");
    }
    if is_expired(secret, now) {
        return Err("expired");
    }
    if data(secret, "usage-bootstrap-authentication") != "true" {
        return Err("not for authentication");
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in data(secret, "auth-extra-groups").split(',').filter(|group| !group.is_empty()) {
        if !is_valid_group(group) {
            return Err("invalid auth-extra-groups");
        }
        groups.push(group.to_owned());
    }
    groups.push("system:authenticated".into());
    Ok(Identity { name: format!("system:bootstrap:{id}"), groups, ..Identity::default() })
}

/// Whether the Secret's expiration has passed; one that cannot be read has.
pub fn is_expired(secret: &Value, now: i64) -> bool {
    let text = data(secret, "expiration");
    !text.is_empty() && time::parse(&text).is_none_or(|end| now >= end)
}

/// The Secret of a token. `expires_at` is seconds since 1970.
pub fn secret(token: &str, expires_at: Option<i64>, description: &str, extra_groups: &[&str]) -> Option<Value> {
    let (id, shown) = split(token)?;
    let mut data = Map::new();
    let mut put = |key: &str, text: &str| {
        if !text.is_empty() {
            data.insert(key.into(), json!(BASE64_STANDARD.encode(text)));
        }
    };
    put("token-id", id);
    put("token-secret", shown);
    put("description", description);
    put("expiration", &expires_at.map(time::format).unwrap_or_default());
    put("usage-bootstrap-authentication", "true");
    put("usage-bootstrap-signing", "true");
    put("auth-extra-groups", &extra_groups.join(","));
    Some(
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret_name(id), "namespace": "kube-system"},
        "type": SECRET_TYPE, "data": data}),
    )
}

/// A value of `data`, decoded; empty if it is missing or no text.
pub fn data(secret: &Value, key: &str) -> String {
    let encoded = secret.get("data").and_then(|data| data.get(key)).and_then(Value::as_str).unwrap_or_default();
    BASE64_STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

fn is_valid_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let letter = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    rest.len() <= 256
        && rest.bytes().all(|byte| letter(byte) || byte == b':' || byte == b'-')
        && rest.bytes().last().is_some_and(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "abc123.0123456789abcdef";

    #[test]
    fn forms() {
        assert_eq!(split(TOKEN), Some(("abc123", "0123456789abcdef")));
        for wrong in
            ["abc123", "abc123.short", "ABC123.0123456789abcdef", "abc1234.123456789abcdef", "abc123.0123456789abcde."]
        {
            assert_eq!(split(wrong), None, "{wrong}");
        }
        let made = from_random([7; 22]);
        assert!(split(&made).is_some());
    }

    #[test]
    fn a_secret_vouches_for_its_token_only() {
        let good = secret(TOKEN, Some(1000), "", &["system:bootstrappers:pi"]).unwrap();
        let identity = authenticate(TOKEN, &good, 999).unwrap();
        assert_eq!(identity.name, "system:bootstrap:abc123");
        assert_eq!(identity.groups, ["system:bootstrappers", "system:bootstrappers:pi", "system:authenticated"]);
        assert_eq!(authenticate(TOKEN, &good, 1000), Err("expired"));
        assert_eq!(authenticate("abc123.0123456789abcdeg", &good, 1), Err("wrong token-secret"));
        let change = |pointer: &str, value: Value| {
            let mut other = good.clone();
            *other.pointer_mut(pointer).unwrap() = value;
            authenticate(TOKEN, &other, 1)
        };
        assert!(change("/type", json!("Opaque")).is_err());
        assert!(change("/data/usage-bootstrap-authentication", json!(BASE64_STANDARD.encode("false"))).is_err());
        assert!(change("/data/auth-extra-groups", json!(BASE64_STANDARD.encode("system:masters"))).is_err());
        assert!(change("/data/expiration", json!(BASE64_STANDARD.encode("tomorrow"))).is_err());
        assert!(authenticate(TOKEN, &secret(TOKEN, None, "", &[]).unwrap(), i64::MAX).is_ok());
    }
}
