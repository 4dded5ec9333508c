//! Pure: which tunnel joins boards that are apart, and what of a WireGuard device has to change.

use core::net::SocketAddr;
use core::str::FromStr;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::netlink::wireguard::{Key, Known, Peer};

/// Where a Node tells its key.
pub(crate) const KEY_ANNOTATION: &str = "bramble.dev/wireguard-public-key";
/// A handshake that is older belongs to a session that the protocol has given up (its `REJECT_AFTER_TIME`).
const SESSION_S: i64 = 180;

/// The tunnel between boards that no link joins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlay {
    /// In the clear.
    #[default]
    Vxlan,
    /// Encrypted; boards that cannot are not spoken to.
    Wireguard,
    /// Encrypted with boards that can, in the clear with others.
    Auto,
}

impl Overlay {
    /// As it is written.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Wireguard => "wireguard",
            Self::Auto => "auto",
        }
    }
}

impl FromStr for Overlay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Vxlan, Self::Wireguard, Self::Auto];
        let found = all.into_iter().find(|one| one.word() == text);
        found.ok_or_else(|| format!("the overlay {text:?} is none of vxlan, wireguard, auto"))
    }
}

/// A key as it is written.
pub(crate) fn encode(key: &Key) -> String {
    STANDARD.encode(key)
}

/// None for what is no key.
pub(crate) fn decode(text: &str) -> Option<Key> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// What a Node's annotations have to be changed to, so that they tell this key, or none.
pub(crate) fn announcement(node: &Value, key: Option<&Key>) -> Option<Value> {
    let told = node["metadata"]["annotations"][KEY_ANNOTATION].as_str();
    let wanted = key.map(encode);
    (told != wanted.as_deref()).then(|| serde_json::json!({"metadata": {"annotations": {KEY_ANNOTATION: wanted}}}))
}

/// What has to be told a device.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// New, or not as wanted.
    pub(crate) set: Vec<Peer>,
    pub(crate) remove: Vec<Key>,
}

/// Decides. `told` are the endpoints that this run told the device before: an endpoint that the device found out since
/// then, because a peer moved or sits behind a NAT, is left alone.
pub(crate) fn changes(known: &[Known], wanted: &[Peer], told: &BTreeMap<Key, SocketAddr>, now_s: i64) -> Changes {
    let mut changes = Changes::default();
    for peer in wanted {
        let Some(stands) = known.iter().find(|known| known.peer.key == peer.key) else {
            changes.set.push(peer.clone());
            continue;
        };
        let lives = (0..SESSION_S).contains(&now_s.saturating_sub(stands.handshake_s));
        let moved = match told.get(&peer.key) {
            Some(before) => peer.endpoint != Some(*before),
            // An earlier run told it something; what works is not touched.
            None => stands.peer.endpoint != peer.endpoint && !lives,
        };
        let endpoint = peer.endpoint.filter(|_| moved);
        let same = stands.peer.allowed == peer.allowed && stands.peer.keepalive == peer.keepalive;
        if endpoint.is_some() || !same {
            changes.set.push(Peer { endpoint, ..peer.clone() });
        }
    }
    let gone = known.iter().map(|known| known.peer.key).filter(|key| wanted.iter().all(|peer| peer.key != *key));
    changes.remove = gone.collect();
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;
    use serde_json::json;

    fn peer(number: u8, endpoint: &str) -> Peer {
        Peer {
            key: [number; 32],
            endpoint: Some(endpoint.parse().unwrap()),
            allowed: vec![(IpAddr::from([10, 42, number, 0]), 24)],
            keepalive: 0,
        }
    }

    fn known(peer: &Peer, handshake_s: i64) -> Known {
        Known { peer: peer.clone(), handshake_s }
    }

    #[test]
    fn only_differences_are_programmed() {
        let (a, b, c) = (peer(1, "10.0.0.1:51820"), peer(2, "10.0.0.2:51820"), peer(3, "10.0.0.3:51820"));
        let told = BTreeMap::from([(a.key, a.endpoint.unwrap()), (c.key, c.endpoint.unwrap())]);
        let stand = [known(&a, 0), known(&c, 0)];
        let wanted = [a.clone(), b.clone()];
        assert_eq!(changes(&stand, &wanted, &told, 9), Changes { set: vec![b], remove: vec![c.key] });
        assert_eq!(changes(&[known(&a, 0)], std::slice::from_ref(&a), &told, 9), Changes::default());
        let wider = Peer { allowed: vec![(IpAddr::from([10, 42, 9, 0]), 24)], ..a.clone() };
        let change = changes(&[known(&a, 0)], std::slice::from_ref(&wider), &told, 9);
        assert_eq!(change.set, [Peer { endpoint: None, ..wider }], "the endpoint stays the kernel's");
    }

    #[test]
    fn an_endpoint_that_the_kernel_found_out_is_left_alone_and_a_node_that_moved_is_followed() {
        let (home, roamed) = (peer(1, "10.0.0.1:51820"), peer(1, "203.0.113.9:40000"));
        let told = BTreeMap::from([(home.key, home.endpoint.unwrap())]);
        let wanted = std::slice::from_ref(&home);
        assert_eq!(changes(&[known(&roamed, 1000)], wanted, &told, 99_999), Changes::default());
        let moved = peer(1, "10.0.0.7:51820");
        let change = changes(&[known(&home, 1000)], std::slice::from_ref(&moved), &told, 1001);
        assert_eq!(change.set, [moved]);
        // After a start of the agent: what works stays, what does not is told anew.
        let none = BTreeMap::new();
        assert_eq!(changes(&[known(&roamed, 1000)], wanted, &none, 1100), Changes::default());
        assert_eq!(changes(&[known(&roamed, 1000)], wanted, &none, 1200).set, wanted);
        assert_eq!(changes(&[known(&roamed, 0)], wanted, &none, 5_000_000).set, wanted);
    }

    #[test]
    fn a_key_is_told_once_and_taken_back() {
        let key = [7; 32];
        let text = encode(&key);
        assert_eq!((text.len(), decode(&text)), (44, Some(key)));
        assert_eq!(decode("c2hvcnQ="), None);
        let node = json!({"metadata": {"annotations": {KEY_ANNOTATION: text}}});
        assert_eq!(announcement(&node, Some(&key)), None);
        assert_eq!(announcement(&json!({"metadata": {}}), None), None);
        let taken = announcement(&node, None).unwrap();
        assert_eq!(taken["metadata"]["annotations"][KEY_ANNOTATION], Value::Null);
        assert!(announcement(&json!({}), Some(&key)).is_some());
        assert_eq!("auto".parse(), Ok(Overlay::Auto));
        assert!("ipsec".parse::<Overlay>().is_err());
    }
}
