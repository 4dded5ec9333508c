//! Pure: image references, as people write them and as registries want them.

use std::fmt;

/// Longest reference that is accepted; upstream's limit on a repository name is 255, a digest adds 71, a tag 128.
const REFERENCE_MAX: usize = 512;

/// `registry/repository[:tag][@digest]`, normalised as Docker does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Host and optional port.
    pub registry: String,
    /// Path below the registry.
    pub repository: String,
    /// Absent only where a digest was given without a tag.
    pub tag: Option<String>,
    /// `sha256:<hex>`.
    pub digest: Option<Digest>,
}

/// A text that is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {text:?}: {why}")]
pub struct ReferenceError {
    /// What was given.
    pub text: String,
    why: &'static str,
}

/// A sha256 digest, kept as 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// Reads `sha256:<64 hex digits>`; no other algorithm is in use.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?;
        let valid = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| Self(hex.to_owned()))
    }

    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_ring(&ring::digest::digest(&ring::digest::SHA256, bytes))
    }

    pub(crate) fn from_ring(digest: &ring::digest::Digest) -> Self {
        use fmt::Write;
        let mut hex = String::with_capacity(64);
        for byte in digest.as_ref() {
            let _ = write!(hex, "{byte:02x}");
        }
        Self(hex)
    }

    /// The digits alone: a safe file name.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no sha256 digest")))
    }
}

impl Reference {
    /// Reads a reference; `nginx` becomes `docker.io/library/nginx:latest`.
    ///
    /// # Errors
    /// Whatever the distribution specification's grammar does not allow.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let fail = |why| ReferenceError { text: text.chars().take(REFERENCE_MAX).collect(), why };
        if text.is_empty() || text.len() > REFERENCE_MAX {
            return Err(fail("invalid reference format"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(Digest::parse(digest).ok_or_else(|| fail("invalid digest"))?)),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(fail("invalid reference format"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path.to_owned()),
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", format!("library/{name}")),
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(fail("repository name must be lowercase"));
        }
        if !path.split('/').all(is_component) || !is_host(registry) {
            return Err(fail("invalid reference format"));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { registry: registry.to_owned(), repository: path, tag, digest })
    }

    /// What the manifest endpoint is asked for: the digest if there is one, else the tag.
    #[must_use]
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// `registry/repository`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= 128 && bytes.next().is_some_and(word) && bytes.all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn is_component(part: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    edge(part.bytes().next())
        && edge(part.bytes().next_back())
        && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    (edge(name.bytes().next()) || name.starts_with("::"))
        && edge(name.bytes().next_back())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':'))
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed_as_docker_does() {
        for (short, whole) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("grafana/grafana:10.1", "docker.io/grafana/grafana:10.1"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("quay.io/a/b/c:v1", "quay.io/a/b/c:v1"),
            ("127.0.0.1:5000/hello:demo", "127.0.0.1:5000/hello:demo"),
        ] {
            assert_eq!(Reference::parse(short).unwrap().to_string(), whole);
        }
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let digest = Digest::of(b"x");
        let reference = Reference::parse(&format!("a.b/c:1@{digest}")).unwrap();
        assert_eq!(reference.selector(), digest.to_string());
        assert_eq!(Reference::parse(&format!("a.b/c@{digest}")).unwrap().tag, None);
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for wrong in ["", "UPPER/case", "a b", "a@sha256:12", "a.b:x/y", "x:-tag", "a//b", "../etc", "a/../b"] {
            assert!(Reference::parse(wrong).is_err(), "{wrong}");
        }
    }
}
