//! Pure: which of a pod's pull secrets belong to an image.

use bramble_runtime::reference::Reference;

use crate::pods::Credential;

/// Docker Hub's historical key in configuration files.
const HUB_NAMES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// The credentials for `reference`, the longest matching path first, as upstream's keyring orders them.
#[must_use]
pub fn matching<'a>(credentials: &'a [Credential], reference: &Reference) -> Vec<&'a Credential> {
    let mut found: Vec<(usize, &Credential)> = credentials
        .iter()
        .filter_map(|credential| Some((rank(&credential.registry, reference)?, credential)))
        .collect();
    found.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
    found.into_iter().map(|(_, credential)| credential).collect()
}

/// How specific the key is for the reference, if it fits at all.
fn rank(key: &str, reference: &Reference) -> Option<usize> {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let path = path.trim_end_matches('/');
    // Old configuration files name the API's version behind the host.
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let same_host =
        if HUB_NAMES.contains(&host) { reference.registry == "docker.io" } else { glob(host, &reference.registry) };
    let below = path.is_empty()
        || reference.repository == path
        || reference.repository.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    (same_host && below).then_some(path.len())
}

/// `*` stands for part of one label; labels and port must be as many.
fn glob(pattern: &str, host: &str) -> bool {
    let split = |text: &str| -> (Vec<String>, Option<String>) {
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.to_owned())),
            None => (text, None),
        };
        (name.split('.').map(str::to_owned).collect(), port)
    };
    let ((patterns, pattern_port), (labels, port)) = (split(pattern), split(host));
    pattern_port == port
        && patterns.len() == labels.len()
        && patterns.iter().zip(&labels).all(|(pattern, label)| match pattern.split_once('*') {
            None => pattern == label,
            Some((start, end)) => {
                label.len() >= start.len() + end.len() && label.starts_with(start) && label.ends_with(end)
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(registry: &str) -> Credential {
        Credential {
            registry: registry.into(),
            username: registry.into(),
            password: String::new(),
            identity_token: String::new(),
        }
    }

    fn found(keys: &[&str], image: &str) -> Vec<String> {
        let credentials: Vec<_> = keys.iter().map(|key| credential(key)).collect();
        let reference = Reference::parse(image).unwrap();
        matching(&credentials, &reference).into_iter().map(|found| found.username.clone()).collect()
    }

    #[test]
    fn hub_hosts_globs_and_paths() {
        assert_eq!(found(&["https://index.docker.io/v1/"], "nginx").len(), 1);
        assert_eq!(found(&["*.example.com"], "a.example.com/x").len(), 1);
        assert_eq!(found(&["*.example.com"], "a.b.example.com/x").len(), 0);
        assert_eq!(found(&["localhost:5000"], "localhost:5001/x").len(), 0);
        assert_eq!(found(&["a.b/team"], "a.b/teams/x").len(), 0);
    }

    #[test]
    fn the_longest_path_comes_first() {
        assert_eq!(found(&["a.b", "a.b/team/app", "a.b/team"], "a.b/team/app:1"), ["a.b/team/app", "a.b/team", "a.b"]);
    }
}
