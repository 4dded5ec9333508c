//! Pure: who may log in: public keys as `ssh-keygen` writes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};

/// What dropbear knows.
const TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// A key alone, or a list.
pub(super) fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "ssh-key is neither a key in quotes nor a list of them")]
    enum Keys {
        One(String),
        More(Vec<String>),
    }
    Ok(match Keys::deserialize(deserializer)? {
        Keys::One(key) => vec![key],
        Keys::More(keys) => keys,
    })
}

/// Keeps what is a key.
pub(super) fn check(keys: &mut Vec<String>, wrong: &mut impl FnMut(&str, String, &str)) {
    keys.retain_mut(|key| {
        *key = key.trim().to_owned();
        let Some(why) = fault(key) else { return true };
        let cure = "copy the one line of the file that ends in .pub: ssh-ed25519 AAAA... me";
        wrong("ssh-key", format!("ssh-key: {why}"), cure);
        false
    });
}

fn fault(key: &str) -> Option<&'static str> {
    if key.contains("PRIVATE KEY") {
        return Some("this is the private key, which belongs on no card; make a new pair");
    }
    if key.contains(['\n', '\r', '\0']) {
        return Some("a key is one line");
    }
    let mut words = key.split(' ');
    let kind = words.next().unwrap_or_default();
    if !TYPES.contains(&kind) {
        return Some("no kind of key that is known here");
    }
    // The data begins with the length of the kind and the kind itself (RFC 4253, 6.6).
    let data = STANDARD.decode(words.next().unwrap_or_default()).unwrap_or_default();
    let start = [&(kind.len() as u32).to_be_bytes(), kind.as_bytes()].concat();
    let whole = data.starts_with(&start) && data.len() >= start.len() + 32;
    (!whole).then_some("the key is not whole")
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBERERERERERERERERERERERERERERERERERERERERER me";

    #[test]
    fn one_key_or_more() {
        let (config, mistakes) = parse(format!("ssh-key = \"{KEY}\"").as_bytes());
        assert_eq!((config.ssh_keys, mistakes.len()), (vec![KEY.to_owned()], 0), "{mistakes:?}");
        let (config, mistakes) = parse(format!("ssh-key = [\"{KEY}\",\n \" {KEY} \"]").as_bytes());
        assert_eq!((config.ssh_keys.len(), mistakes.len()), (2, 0), "{mistakes:?}");
    }

    #[test]
    fn what_is_no_key_lets_nobody_in() {
        let other = KEY.replace("ssh-ed25519", "ssh-rsa");
        for (value, word) in [
            ("\"\"".to_owned(), "no kind"),
            ("\"from=\\\"*\\\" ssh-rsa AAAA\"".to_owned(), "no kind"),
            (format!("\"{other}\""), "not whole"),
            (format!("\"{}\"", &KEY[..40]), "not whole"),
            (format!("\"\"\"{KEY}\n{KEY}\"\"\""), "one line"),
            ("\"-----BEGIN OPENSSH PRIVATE KEY-----\"".to_owned(), "private key"),
            ("7".to_owned(), "neither"),
        ] {
            let (config, mistakes) = parse(format!("\nssh-key = {value}").as_bytes());
            assert!(config.ssh_keys.is_empty(), "{value}");
            assert!(mistakes.len() == 1 && mistakes[0].line == 2, "{value}: {mistakes:?}");
            assert!(mistakes[0].message.contains(word), "{value}: {mistakes:?}");
        }
    }
}
