//! Pure: names a message of ours in words, so that an error says what the kernel refused.

use super::{nft, route, wire, wireguard};

/// Which language a message is in: the numbers of the families overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    /// NETLINK_ROUTE
    Route,
    /// NETLINK_NETFILTER: nf_tables and conntrack
    Netfilter,
    /// NETLINK_GENERIC: WireGuard
    Generic,
}

/// For instance `add rule bramble-1a2b3c4d svc/default/web/tcp/80`.
pub(crate) fn describe(language: Language, message: &[u8]) -> String {
    let Some(message) = wire::messages(message).next() else { return "a message".to_owned() };
    match language {
        Language::Route => route_message(&message),
        Language::Netfilter => netfilter_message(&message),
        Language::Generic => generic_message(&message).to_owned(),
    }
}

fn route_message(message: &wire::Message<'_>) -> String {
    let (verb, header, name_kind) = match message.kind {
        route::NEW_LINK => ("set link", 16, Some(3)),
        route::DELETE_LINK => ("delete link", 16, Some(3)),
        route::GET_LINK => ("list links", 16, None),
        route::NEW_ADDRESS => ("add address", 8, None),
        route::DELETE_ADDRESS => ("delete address", 8, None),
        route::NEW_ROUTE => ("add route", 12, None),
        route::DELETE_ROUTE => ("delete route", 12, None),
        route::GET_ROUTE => ("list routes", 12, None),
        route::NEW_NEIGHBOUR => ("add neighbour", 12, None),
        route::DELETE_NEIGHBOUR => ("delete neighbour", 12, None),
        kind => return format!("rtnetlink message {kind}"),
    };
    let body = message.payload.get(header..).unwrap_or_default();
    let name = match name_kind {
        Some(kind) => wire::attribute(body, kind).map(|name| wire::text(name).to_owned()),
        None => wire::attribute(body, 1).and_then(route::address),
    };
    name.map_or_else(|| verb.to_owned(), |name| format!("{verb} {name}"))
}

fn netfilter_message(message: &wire::Message<'_>) -> String {
    let verb = match message.kind {
        nft::NEW_TABLE => "add table",
        nft::GET_TABLE => "get table",
        nft::DELETE_TABLE => "delete table",
        nft::NEW_CHAIN => "add chain",
        nft::DELETE_CHAIN => "delete chain",
        nft::NEW_RULE => "add rule",
        nft::DELETE_RULE => "delete rules",
        nft::NEW_SET => "add set",
        nft::DELETE_SET => "delete set",
        nft::NEW_ELEMENTS => "add elements",
        nft::DELETE_ELEMENTS => "delete elements",
        nft::GET_GENERATION => "get generation",
        nft::BATCH_BEGIN | nft::BATCH_END => "commit",
        kind => return format!("netfilter message {kind:#x}"),
    };
    let body = message.payload.get(4..).unwrap_or_default();
    let chain = if matches!(message.kind, nft::NEW_CHAIN | nft::DELETE_CHAIN) { 3 } else { 2 };
    let names = [1, chain].into_iter().filter_map(|kind| wire::attribute(body, kind)).map(wire::text);
    let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
    format!("{verb} {}", names.join(" ")).trim_end().to_owned()
}

/// Nothing of what is in it: keys are.
fn generic_message(message: &wire::Message<'_>) -> &'static str {
    match message.payload.first() {
        Some(&wireguard::SET_DEVICE) => "set WireGuard's device",
        Some(&wireguard::GET_FAMILY) => "find WireGuard",
        _ => "get WireGuard's device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_has_a_name() {
        let mut batch = wire::Batch::default();
        nft::delete_rules(&mut batch, "bramble-1", "svc/default/web/tcp/80");
        assert_eq!(describe(Language::Netfilter, &batch.bytes), "delete rules bramble-1 svc/default/web/tcp/80");
        let mut batch = wire::Batch::default();
        route::delete_link(&mut batch, "br123456abc");
        assert_eq!(describe(Language::Route, &batch.bytes), "delete link br123456abc");
        assert_eq!(describe(Language::Route, &[1, 2]), "a message");
    }
}
