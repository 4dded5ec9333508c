//! Pure: what an API server wishes of a board that it cannot reach, as the board's Node says.

use std::net::SocketAddr;

use serde_json::Value;

use crate::link::Endpoint;

/// The annotation: `<the API server's advertised address> <when it wished>`.
const ANNOTATION: &str = "bramble.dev/tunnel";

/// Below this path a tunnel is asked for.
const PATH: &str = "/bramble/v1/tunnel/";

/// The wish that a Node carries, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    /// All of it: another wish of the same server differs in its time.
    pub(super) text: String,
    /// The address that the server advertises.
    pub(super) controller: SocketAddr,
}

/// Reads the wish of a Node; what is no wish is none.
pub(super) fn of_node(node: &Value) -> Option<Wish> {
    let text = node["metadata"]["annotations"][ANNOTATION].as_str()?;
    let controller = text.split(' ').next()?.parse().ok()?;
    Some(Wish { text: text.to_owned(), controller })
}

impl Wish {
    /// Where the tunnel is asked for.
    pub(super) fn path(&self, node: &str) -> String {
        format!("{PATH}{node}?for={}", crate::link::escape(&self.controller.to_string()))
    }

    /// The servers that may be the one that wishes, the likeliest first. Only those that the board knows: whoever may change a
    /// Node must not send boards elsewhere.
    pub(super) fn order(&self, mut known: Vec<Endpoint>) -> Vec<Endpoint> {
        let named = self.controller.to_string();
        known.sort_by_key(|server| server.authority() != named);
        known
    }
}

/// What is asked for through a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// This board's kubelet.
    Kubelet,
    /// An address, which must be one of this board's pods.
    Pod(SocketAddr),
}

/// Reads the authority of a CONNECT request.
pub(super) fn wanted(authority: &str) -> Option<Wanted> {
    match authority.split_once(':') {
        Some(("kubelet", _)) => Some(Wanted::Kubelet),
        _ => authority.parse().ok().map(Wanted::Pod),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_says_who_wishes() {
        let node = |text: &str| json!({"metadata": {"annotations": {"bramble.dev/tunnel": text}}});
        let wish = of_node(&node("[fd00::1]:6443 2026-11-28T00:00:00.000001Z")).unwrap();
        assert_eq!(wish.path("pi-1"), "/bramble/v1/tunnel/pi-1?for=%5Bfd00%3A%3A1%5D%3A6443");
        assert_ne!(of_node(&node("[fd00::1]:6443 2026-11-28T00:00:00.000002Z")).unwrap(), wish, "another wish");
        assert_eq!(of_node(&node("somewhere.example 1")), None);
        assert_eq!(of_node(&json!({})), None);
    }

    #[test]
    fn only_known_servers_are_asked_the_named_one_first() {
        let known: Vec<_> = ["10.0.0.1", "10.0.0.2", "site.lan"].map(|text| Endpoint::parse(text).unwrap()).into();
        let order = |controller: &str| -> Vec<String> {
            let wish = Wish { text: String::new(), controller: controller.parse().unwrap() };
            wish.order(known.clone()).iter().map(Endpoint::authority).collect()
        };
        assert_eq!(order("10.0.0.2:6443"), ["10.0.0.2:6443", "10.0.0.1:6443", "site.lan:6443"]);
        assert_eq!(order("192.0.2.1:6443"), ["10.0.0.1:6443", "10.0.0.2:6443", "site.lan:6443"]);
    }

    #[test]
    fn a_tunnel_leads_to_the_kubelet_or_to_an_address() {
        assert_eq!(wanted("kubelet:10250"), Some(Wanted::Kubelet));
        assert_eq!(wanted("10.42.1.3:80"), Some(Wanted::Pod("10.42.1.3:80".parse().unwrap())));
        assert_eq!(wanted("[fd00::3]:80"), Some(Wanted::Pod("[fd00::3]:80".parse().unwrap())));
        assert_eq!(wanted("router.lan:80"), None);
    }
}
