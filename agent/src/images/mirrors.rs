//! Pure: which mirrors stand before a registry, and how they are asked.
//!
//! As k3s' `registries.yaml` and containerd's `hosts.toml`: the mirrors of a registry in the order that they were given,
//! the registry itself last; `*` stands for every registry that has none of its own.

/// The registry whose API lives under another name than its images.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");
/// Mirrors for all registries that are not named.
const ALL: &str = "*";

/// One place that is asked for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `host[:port]`.
    pub host: String,
    /// Without TLS.
    pub plain: bool,
    /// For a mirror the registry in whose place it stands; one that stands for several tells them apart by it.
    pub instead_of: Option<String>,
}

impl Endpoint {
    /// The registry itself.
    #[must_use]
    pub fn of_registry(registry: &str, plain: bool) -> Self {
        let host = if registry == HUB.0 { HUB.1 } else { registry };
        Self { host: host.to_owned(), plain, instead_of: None }
    }

    /// Reads a mirror's URL: `https://HOST[:PORT]`, `http://HOST[:PORT]`, or `HOST[:PORT]` alone, which means TLS.
    fn of_mirror(url: &str) -> Result<Self, String> {
        let (plain, rest) = match url.split_once("://") {
            Some(("http", rest)) => (true, rest),
            Some(("https", rest)) => (false, rest),
            Some((scheme, _)) => return Err(format!("{scheme}:// is neither https:// nor http://")),
            None => (false, url),
        };
        let host = rest.trim_end_matches('/');
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let port = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map(|(_, port)| port);
        if name.is_empty() || host.contains(['/', '@', '?', '#', ' ', '=', ',']) {
            return Err(format!("{url:?} is no URL of a mirror: https://HOST[:PORT] or http://HOST[:PORT]"));
        }
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(format!("{url:?} has no port that can be"));
        }
        Ok(Self { host: host.to_owned(), plain, instead_of: None })
    }

    /// The URL of a manifest or blob.
    #[must_use]
    pub fn url(&self, repository: &str, rest: &str) -> String {
        let scheme = if self.plain { "http" } else { "https" };
        let query = self.instead_of.as_ref().map_or_else(String::new, |registry| format!("?ns={registry}"));
        format!("{scheme}://{}/v2/{repository}/{rest}{query}", self.host)
    }
}

/// The mirrors of every registry that has some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirrors(Vec<(String, Endpoint)>);

impl Mirrors {
    /// Takes one more, behind those that the registry has: `REGISTRY=URL`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let (registry, url) =
            text.split_once('=').ok_or_else(|| format!("{text:?} is not REGISTRY=URL, as docker.io=https://HOST"))?;
        check(registry, url)?;
        self.0.push((registry.to_owned(), Endpoint::of_mirror(url)?));
        Ok(())
    }

    /// Those of one registry, in order.
    #[must_use]
    pub fn of(&self, registry: &str) -> Vec<Endpoint> {
        let named = |name: &str| -> Vec<Endpoint> {
            let found = self.0.iter().filter(|(key, _)| key == name);
            found.map(|(_, mirror)| Endpoint { instead_of: Some(registry.to_owned()), ..mirror.clone() }).collect()
        };
        let own = named(registry);
        if own.is_empty() { named(ALL) } else { own }
    }
}

/// Whether this registry may have this mirror.
///
/// # Errors
/// A sentence for the user.
pub fn check(registry: &str, url: &str) -> Result<(), String> {
    if registry != ALL && (registry.is_empty() || registry.contains(['/', ' ', '=', '*'])) {
        return Err(format!("{registry:?} is no registry: its HOST[:PORT] as image names begin, docker.io, or *"));
    }
    Endpoint::of_mirror(url).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors(lines: &[&str]) -> Mirrors {
        let mut mirrors = Mirrors::default();
        lines.iter().for_each(|line| mirrors.add(line).unwrap());
        mirrors
    }

    #[test]
    fn mirrors_come_in_the_order_given_and_a_star_is_for_the_others() {
        let all = mirrors(&["docker.io=http://10.0.0.1:5000", "*=https://all.lan/", "docker.io=mirror.lan"]);
        let urls = |registry: &str| -> Vec<String> {
            all.of(registry).iter().map(|mirror| mirror.url("library/x", "manifests/1")).collect()
        };
        assert_eq!(
            urls("docker.io"),
            [
                "http://10.0.0.1:5000/v2/library/x/manifests/1?ns=docker.io",
                "https://mirror.lan/v2/library/x/manifests/1?ns=docker.io"
            ]
        );
        assert_eq!(urls("quay.io"), ["https://all.lan/v2/library/x/manifests/1?ns=quay.io"]);
        assert!(Mirrors::default().of("quay.io").is_empty());
    }

    #[test]
    fn a_registry_itself_is_asked_by_the_name_of_its_api() {
        assert_eq!(Endpoint::of_registry("docker.io", false).url("a", "b"), "https://registry-1.docker.io/v2/a/b");
        assert_eq!(Endpoint::of_registry("a:1", true).url("a", "b"), "http://a:1/v2/a/b");
    }

    #[test]
    fn what_is_no_mirror_is_refused_with_the_form_that_it_should_have() {
        for (line, word) in [
            ("docker.io", "REGISTRY=URL"),
            ("=https://a", "no registry"),
            ("docker.io/library=https://a", "no registry"),
            ("docker.io=ftp://a", "neither"),
            ("docker.io=https://a/path", "https://HOST"),
            ("docker.io=https://u:p@a", "https://HOST"),
            ("docker.io=https://", "https://HOST"),
            ("docker.io=https://a:99999", "no port"),
            ("docker.io=", "https://HOST"),
        ] {
            let error = Mirrors::default().add(line).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
        assert!(Mirrors::default().add("[fd00::1]:5000=http://[fd00::2]:5000").is_ok());
        assert!(Mirrors::default().add("a=https://[fd00::2]").is_ok());
    }
}
