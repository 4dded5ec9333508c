//! Pure: ARP over Ethernet (RFC 826), and its announcements (RFC 5227).

use std::net::{IpAddr, Ipv4Addr};

use super::Heard;
use crate::netlink::route::Mac;

/// Ethernet's header and ARP's message; what follows is filling.
pub(super) const FRAME_BYTES: usize = 14 + 28;
/// ARP; Ethernet, IPv4, and the lengths of their addresses.
const KIND: [u8; 8] = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4];
const EVERYBODY: Mac = [0xff; 6];
const NOBODY: Mac = [0; 6];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// "This address is at that board": a question for an address by who has it, as everybody understands it.
pub(super) fn announcement(ip: Ipv4Addr, mac: Mac) -> [u8; FRAME_BYTES] {
    frame((EVERYBODY, mac), REQUEST, (mac, ip), (NOBODY, ip))
}

/// The answer to a question.
pub(super) fn answer(ip: Ipv4Addr, mac: Mac, (asker_ip, asker_mac): (Ipv4Addr, Mac)) -> [u8; FRAME_BYTES] {
    frame((asker_mac, mac), REPLY, (mac, ip), (asker_mac, asker_ip))
}

/// "Has anybody this address?", by somebody who does not say that it is theirs: nobody remembers anything of it.
pub(super) fn probe(ip: Ipv4Addr, mac: Mac) -> [u8; FRAME_BYTES] {
    frame((EVERYBODY, mac), REQUEST, (mac, Ipv4Addr::UNSPECIFIED), (NOBODY, ip))
}

/// What a packet socket has to see: (offset, value) of words of a whole frame. It asks for this address.
pub(super) fn wanted(ip: Ipv4Addr) -> [(u32, u32); 1] {
    [(38, ip.into())]
}

/// The same for frames whose sender says that this address is theirs.
pub(super) fn claiming(ip: Ipv4Addr) -> [(u32, u32); 1] {
    [(28, ip.into())]
}

/// Whose address it is, by the frame's sender.
pub(super) fn claimant(frame: &[u8], ip: Ipv4Addr) -> Option<Mac> {
    let part = |from: usize, to: usize| frame.get(from..to);
    let claims = part(12, 20) == Some(&KIND) && part(28, 32) == Some(&ip.octets());
    let mac: Mac = part(22, 28).filter(|_| claims && frame.len() >= FRAME_BYTES)?.try_into().ok()?;
    (mac != NOBODY && mac[0] & 1 == 0).then_some(mac)
}

fn frame(
    (to, from): (Mac, Mac),
    operation: u16,
    (sender_mac, sender_ip): (Mac, Ipv4Addr),
    (target_mac, target_ip): (Mac, Ipv4Addr),
) -> [u8; FRAME_BYTES] {
    let mut bytes = [0; FRAME_BYTES];
    bytes[..6].copy_from_slice(&to);
    bytes[6..12].copy_from_slice(&from);
    bytes[12..20].copy_from_slice(&KIND);
    bytes[20..22].copy_from_slice(&operation.to_be_bytes());
    bytes[22..28].copy_from_slice(&sender_mac);
    bytes[28..32].copy_from_slice(&sender_ip.octets());
    bytes[32..38].copy_from_slice(&target_mac);
    bytes[38..42].copy_from_slice(&target_ip.octets());
    bytes
}

pub(super) fn parse(frame: &[u8], ip: Ipv4Addr, own: Mac) -> Heard {
    let part = |from: usize, to: usize| frame.get(from..to);
    if part(12, 20) != Some(&KIND) || part(38, 42) != Some(&ip.octets()) {
        return Heard::Nothing;
    }
    let mac = part(22, 28).and_then(|mac| Mac::try_from(mac).ok()).unwrap_or(own);
    let sender = part(28, 32).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(Ipv4Addr::from);
    if mac == own || mac[0] & 1 != 0 {
        return Heard::Nothing;
    }
    match (sender, part(20, 22)) {
        (Some(sender), _) if sender == ip => Heard::Announcement(mac),
        (Some(sender), Some([0, 1])) => Heard::Question { mac, ip: IpAddr::V4(sender) },
        _ => Heard::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
    const ONE: Mac = [2, 0, 0, 0, 0, 1];
    const TWO: Mac = [2, 0, 0, 0, 0, 2];

    #[test]
    fn announcements_and_questions_are_told_apart() {
        assert_eq!(parse(&announcement(IP, ONE), IP, TWO), Heard::Announcement(ONE));
        assert_eq!(parse(&announcement(IP, ONE), IP, ONE), Heard::Nothing, "our own");
        let asker = Ipv4Addr::new(10, 0, 0, 1);
        let question = frame((EVERYBODY, ONE), REQUEST, (ONE, asker), (NOBODY, IP));
        assert_eq!(parse(&question, IP, TWO), Heard::Question { mac: ONE, ip: asker.into() });
        assert_eq!(parse(&question, Ipv4Addr::new(10, 0, 0, 8), TWO), Heard::Nothing);
        let reply = answer(IP, TWO, (asker, ONE));
        assert_eq!((&reply[..6], &reply[6..12], &reply[20..22]), (&ONE[..], &TWO[..], &[0, 2][..]));
    }

    #[test]
    fn rubbish_is_nothing() {
        let whole = announcement(IP, ONE);
        for at in 0..whole.len() {
            assert_eq!(parse(&whole[..at], IP, TWO), Heard::Nothing);
        }
        let everybody = announcement(IP, EVERYBODY);
        assert_eq!(parse(&everybody, IP, TWO), Heard::Nothing, "no board has that address");
    }

    #[test]
    fn who_sends_from_an_address_claims_it_and_who_probes_does_not() {
        let asks_another = frame((EVERYBODY, ONE), REQUEST, (ONE, IP), (NOBODY, Ipv4Addr::new(10, 0, 0, 1)));
        for claims in [asks_another, announcement(IP, ONE), answer(IP, ONE, (Ipv4Addr::UNSPECIFIED, TWO))] {
            assert_eq!(claimant(&claims, IP), Some(ONE));
            assert_eq!(claimant(&claims, Ipv4Addr::new(10, 0, 0, 8)), None);
            assert!((0..claims.len()).all(|at| claimant(&claims[..at], IP).is_none()));
        }
        assert_eq!(claimant(&probe(IP, ONE), IP), None);
        assert_eq!((claimant(&announcement(IP, EVERYBODY), IP), claimant(&announcement(IP, NOBODY), IP)), (None, None));
    }
}
