//! Pure: neighbour discovery over Ethernet (RFC 4861): what of it tells at which board an address of IPv6 is.

use std::net::{IpAddr, Ipv6Addr};

use super::Heard;
use crate::netlink::route::Mac;

/// Ethernet's header, IPv6's, an advertisement, and its option.
pub(super) const FRAME_BYTES: usize = ETHERNET + IPV6 + ADVERTISEMENT + OPTION;
const ETHERNET: usize = 14;
const IPV6: usize = 40;
const ADVERTISEMENT: usize = 24;
const OPTION: usize = 8;
/// Where the address that a message is about begins.
const TARGET: usize = ETHERNET + IPV6 + 8;
/// Every node of the link.
const EVERYBODY: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const EVERYBODY_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ICMPV6: u8 = 58;
/// Who is not of this link cannot send it: every router counts it down.
const HOPS: u8 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISES: u8 = 136;
const SOLICITED: u8 = 0x40;
/// What was known of the address is no longer true.
const OVERRIDE: u8 = 0x20;
/// The option with the hardware address of the target; its length is counted in units of eight bytes.
const TARGET_LINK_ADDRESS: [u8; 2] = [2, 1];

/// "This address is at that board", unasked.
pub(super) fn announcement(ip: Ipv6Addr, mac: Mac) -> [u8; FRAME_BYTES] {
    frame((EVERYBODY_MAC, EVERYBODY), (ip, mac), OVERRIDE)
}

/// The answer to a question. Who has no address yet, and asks whether this one is free, is told with everybody.
pub(super) fn answer(ip: Ipv6Addr, mac: Mac, (asker_ip, asker_mac): (Ipv6Addr, Mac)) -> [u8; FRAME_BYTES] {
    if asker_ip.is_unspecified() {
        return announcement(ip, mac);
    }
    frame((asker_mac, asker_ip), (ip, mac), SOLICITED | OVERRIDE)
}

/// The group in which questions for an address are asked.
pub(super) fn group(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = ip.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

/// What a packet socket has to see: (offset, value) of words of a whole frame. The message is ICMPv6 about this address.
pub(super) fn wanted(ip: Ipv6Addr) -> [(u32, u32); 4] {
    let octets = ip.octets();
    let word = |at: usize| u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
    let offset = |at: usize| u32::try_from(TARGET + at).unwrap_or_default();
    [0, 4, 8, 12].map(|at| (offset(at), word(at)))
}

fn frame((to_mac, to): (Mac, Ipv6Addr), (ip, mac): (Ipv6Addr, Mac), flags: u8) -> [u8; FRAME_BYTES] {
    let mut bytes = [0; FRAME_BYTES];
    let (ethernet, rest) = bytes.split_at_mut(ETHERNET);
    let (header, message) = rest.split_at_mut(IPV6);
    ethernet[..6].copy_from_slice(&to_mac);
    ethernet[6..12].copy_from_slice(&mac);
    ethernet[12..].copy_from_slice(&[0x86, 0xdd]);
    header[0] = 0x60;
    header[5] = (ADVERTISEMENT + OPTION) as u8;
    header[6] = ICMPV6;
    header[7] = HOPS;
    header[8..24].copy_from_slice(&ip.octets());
    header[24..40].copy_from_slice(&to.octets());
    message[0] = ADVERTISES;
    message[4] = flags;
    message[8..24].copy_from_slice(&ip.octets());
    message[24..26].copy_from_slice(&TARGET_LINK_ADDRESS);
    message[26..].copy_from_slice(&mac);
    let sum = checksum(&header[8..40], message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// ICMPv6's (RFC 4443), over the addresses, the length, the protocol and the message, whose own field is zero.
fn checksum(addresses: &[u8], message: &[u8]) -> u16 {
    let words = addresses.chunks(2).chain(message.chunks(2));
    let words = words.map(|two| u32::from(u16::from_be_bytes([two[0], two.get(1).copied().unwrap_or_default()])));
    let mut sum = words.sum::<u32>() + message.len() as u32 + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub(super) fn parse(frame: &[u8], ip: Ipv6Addr, own: Mac) -> Heard {
    let Some((whole, option)) = frame.split_at_checked(TARGET + 16) else { return Heard::Nothing };
    let link_local = whole[12..14] == [0x86, 0xdd] && whole[ETHERNET + 6..ETHERNET + 8] == [ICMPV6, HOPS];
    let Ok(sender_mac) = Mac::try_from(&whole[6..12]) else { return Heard::Nothing };
    let Ok(sender) = <[u8; 16]>::try_from(&whole[ETHERNET + 8..ETHERNET + 24]) else { return Heard::Nothing };
    let foreign = |mac: Mac| mac != own && mac[0] & 1 == 0;
    if !link_local || whole[TARGET..] != ip.octets() || !foreign(sender_mac) {
        return Heard::Nothing;
    }
    match whole[ETHERNET + IPV6] {
        ADVERTISES => {
            let told = option.get(..OPTION).filter(|option| option[..2] == TARGET_LINK_ADDRESS);
            let told = told.and_then(|option| Mac::try_from(&option[2..]).ok()).unwrap_or(sender_mac);
            if foreign(told) { Heard::Announcement(told) } else { Heard::Nothing }
        }
        SOLICITATION => Heard::Question { mac: sender_mac, ip: IpAddr::V6(sender.into()) },
        _ => Heard::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0xc8);
    const ONE: Mac = [2, 0, 0, 0, 0, 1];
    const TWO: Mac = [2, 0, 0, 0, 0, 2];

    /// As a kernel asks, with its own hardware address as the option.
    fn question(from: Ipv6Addr, mac: Mac) -> Vec<u8> {
        let mut bytes = frame(([0x33, 0x33, 0xff, 0, 0, 0xc8], group(IP)), (IP, mac), 0).to_vec();
        bytes[ETHERNET + 8..ETHERNET + 24].copy_from_slice(&from.octets());
        bytes[ETHERNET + IPV6] = SOLICITATION;
        bytes[TARGET + 16] = 1;
        bytes
    }

    #[test]
    fn an_advertisement_is_as_the_protocol_has_it() {
        let bytes = announcement(IP, ONE);
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let ip = "fd9900000000000000000000000000c8";
        let everybody = "ff020000000000000000000000000001";
        let head = format!("33330000000102000000000186dd6000000000203aff{ip}{everybody}8800");
        assert_eq!(text[..head.len()], head);
        assert_eq!(text[head.len() + 4..], format!("20000000{ip}0201020000000001"));
        // Whoever adds it all up, the checksum with it, gets all ones.
        let mut sum: u32 = bytes[22..].chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
        sum += 32 + 58;
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        let asker: Ipv6Addr = "fd99::fe".parse().unwrap();
        let reply = answer(IP, ONE, (asker, TWO));
        assert_eq!((&reply[..6], &reply[38..54], reply[58]), (&TWO[..], &asker.octets()[..], 0x60));
        assert_eq!(answer(IP, ONE, (Ipv6Addr::UNSPECIFIED, TWO)), bytes);
        assert_eq!(group("2001:db8::abcd:1234".parse().unwrap()), "ff02::1:ffcd:1234".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn advertisements_and_questions_are_told_apart() {
        assert_eq!(parse(&announcement(IP, ONE), IP, TWO), Heard::Announcement(ONE));
        assert_eq!(parse(&announcement(IP, ONE), IP, ONE), Heard::Nothing, "our own");
        assert_eq!(parse(&announcement(IP, ONE), "fd99::c9".parse().unwrap(), TWO), Heard::Nothing);
        let asker: Ipv6Addr = "fe80::1".parse().unwrap();
        assert_eq!(parse(&question(asker, ONE), IP, TWO), Heard::Question { mac: ONE, ip: asker.into() });
        let mut routed = announcement(IP, ONE);
        routed[ETHERNET + 7] = 64;
        assert_eq!(parse(&routed, IP, TWO), Heard::Nothing, "it came through a router");
        let mut short = announcement(IP, ONE).to_vec();
        short.truncate(TARGET + 16);
        assert_eq!(parse(&short, IP, TWO), Heard::Announcement(ONE), "without the option it is who sent it");
    }

    #[test]
    fn rubbish_is_nothing() {
        let whole = announcement(IP, ONE);
        for at in 0..TARGET + 16 {
            assert_eq!(parse(&whole[..at], IP, TWO), Heard::Nothing);
        }
        assert_eq!(parse(&announcement(IP, EVERYBODY_MAC), IP, TWO), Heard::Nothing, "no board has that address");
    }

    #[test]
    fn the_filter_lets_through_what_is_about_the_address() {
        let bytes = question("fe80::1".parse().unwrap(), ONE);
        for (offset, value) in wanted(IP) {
            let at = usize::try_from(offset).unwrap();
            assert_eq!(bytes[at..at + 4], value.to_be_bytes());
        }
    }
}
