//! Pure: where a bucket is, as one URL: `https://host[:port]/bucket[/prefix]`, in S3's path style.

/// A place in an object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// With TLS; without it only where the URL says `http`.
    pub(super) secure: bool,
    /// `host[:port]`, as the header names it.
    pub(super) authority: String,
    /// The bucket.
    pub(super) bucket: String,
    /// What our keys begin with: empty, or with a `/` at its end.
    pub(super) prefix: String,
}

impl Address {
    /// Reads it; the error is a sentence.
    pub(super) fn parse(text: &str) -> Result<Address, String> {
        let wrong = |why: &str| format!("{text:?} is no bucket ({why}); write https://host[:port]/bucket[/prefix]");
        let uri: http::Uri = text.parse().map_err(|_| wrong("no URL"))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("neither https nor http")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("no host"))?.to_string();
        if authority.contains('@') {
            return Err("keys belong into --snapshot-s3-credentials, not into the bucket's URL".into());
        }
        if uri.query().is_some() {
            return Err(wrong("a query"));
        }
        let mut parts = uri.path().split('/').filter(|part| !part.is_empty());
        let bucket = parts.next().ok_or_else(|| wrong("no bucket's name"))?.to_owned();
        let plain = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) && !text.starts_with('.')
        };
        let prefix: Vec<&str> = parts.collect();
        if !plain(&bucket) || !prefix.iter().all(|part| plain(part)) {
            return Err(wrong("names are letters, digits, '.', '_', '-'"));
        }
        let prefix = prefix.into_iter().map(|part| format!("{part}/")).collect();
        Ok(Address { secure, authority, bucket, prefix })
    }

    /// Host and port to connect to.
    pub(super) fn endpoint(&self) -> (&str, u16) {
        let default = if self.secure { 443 } else { 80 };
        let split = self.authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = split.unwrap_or((&self.authority, default));
        (host.trim_matches(['[', ']']), port)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(formatter, "{scheme}://{}/{}/{}", self.authority, self.bucket, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_bucket_and_prefix() {
        let found = Address::parse("https://nas.local:9000/backups/site/one/").unwrap();
        assert_eq!((found.secure, found.bucket.as_str(), found.prefix.as_str()), (true, "backups", "site/one/"));
        assert_eq!(found.endpoint(), ("nas.local", 9000));
        assert_eq!(found.to_string(), "https://nas.local:9000/backups/site/one/");
        let plain = Address::parse("http://[::1]/b").unwrap();
        assert_eq!((plain.endpoint(), plain.prefix.as_str()), (("::1", 80), ""));
        assert_eq!(Address::parse("https://s3.example/b").unwrap().endpoint(), ("s3.example", 443));
    }

    #[test]
    fn what_is_no_bucket_is_told() {
        for (wrong, told) in [
            ("s3://bucket", "neither https"),
            ("https://host", "no bucket's name"),
            ("https://host/", "no bucket's name"),
            ("https://host/a/..", "names are"),
            ("https://host/a%2f", "names are"),
            ("https://host/a?b", "a query"),
            ("https://key:secret@host/a", "--snapshot-s3-credentials"),
            ("", "is no bucket"),
        ] {
            let error = Address::parse(wrong).unwrap_err();
            assert!(error.contains(told), "{wrong}: {error}");
            assert!(!error.contains("secret@"), "{error}");
        }
    }
}
