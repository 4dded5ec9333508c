//! Pure: DHCP for IPv4 (RFC 2131), a client's messages and what they mean; `net` sends them.

use std::net::Ipv4Addr;

/// A message with the options that we use is shorter; a larger one is not read to its end.
pub const MESSAGE_BYTES_MAX: usize = 1500;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const OPTIONS_AT: usize = 240;

const SUBNET: u8 = 1;
const ROUTER: u8 = 3;
const DNS: u8 = 6;
const HOST_NAME: u8 = 12;
const REQUESTED: u8 = 50;
const LEASE: u8 = 51;
const KIND: u8 = 53;
const SERVER: u8 = 54;
const WANTED: u8 = 55;
const CLIENT: u8 = 61;
const END: u8 = 255;

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Who gives addresses?
    Discover,
    /// This offer, please.
    Request {
        /// The address.
        address: Ipv4Addr,
        /// Whose offer it was.
        server: Ipv4Addr,
    },
    /// The address that we have, for longer.
    Renew {
        /// The address.
        address: Ipv4Addr,
    },
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An offer.
    Offer(Lease),
    /// It is ours.
    Granted(Lease),
    /// It is not ours (any more).
    Refused,
}

/// An address for some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Ours.
    pub address: Ipv4Addr,
    /// Length of the network's prefix.
    pub prefix: u8,
    /// The router.
    pub gateway: Option<Ipv4Addr>,
    /// Resolvers.
    pub dns: Vec<Ipv4Addr>,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// For so long.
    pub seconds: u32,
}

/// One message of ours. `name` is what the server may show to people.
#[must_use]
pub fn encode(question: Question, transaction: u32, mac: [u8; 6], name: &str) -> Vec<u8> {
    let mut message = vec![0; OPTIONS_AT];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[4..8].copy_from_slice(&transaction.to_be_bytes());
    if !matches!(question, Question::Renew { .. }) {
        // Answered to everybody, since we have no address yet.
        message[10] = 0x80;
    }
    message[28..34].copy_from_slice(&mac);
    message[236..240].copy_from_slice(&COOKIE);
    let mut option = |code: u8, value: &[u8]| {
        message.extend([code, u8::try_from(value.len()).unwrap_or(0)]);
        message.extend(value);
    };
    let mut client = vec![1];
    client.extend(mac);
    match question {
        Question::Discover => option(KIND, &[1]),
        Question::Request { address, server } => {
            option(KIND, &[3]);
            option(REQUESTED, &address.octets());
            option(SERVER, &server.octets());
        }
        Question::Renew { .. } => option(KIND, &[3]),
    }
    option(CLIENT, &client);
    if !name.is_empty() && name.len() <= 63 {
        option(HOST_NAME, name.as_bytes());
    }
    option(WANTED, &[SUBNET, ROUTER, DNS, LEASE]);
    message.push(END);
    if let Question::Renew { address } = question {
        message[12..16].copy_from_slice(&address.octets());
    }
    // Old relays drop what is shorter.
    message.resize(message.len().max(300), 0);
    message
}

/// An answer to our transaction; anything else is none.
#[must_use]
pub fn decode(message: &[u8], transaction: u32, mac: [u8; 6]) -> Option<Answer> {
    let ours = message.get(..2)? == [2, 1]
        && message.get(4..8)? == transaction.to_be_bytes()
        && message.get(28..34)? == mac
        && message.get(236..OPTIONS_AT)? == COOKIE;
    if !ours {
        return None;
    }
    let address = ip(&message[16..20])?;
    let (mut kind, mut lease) = (None, None);
    let (mut prefix, mut gateway, mut dns, mut server) = (None, None, Vec::new(), None);
    let mut rest = &message[OPTIONS_AT..];
    while let [code, after @ ..] = rest {
        match *code {
            0 => rest = after,
            END => break,
            code => {
                let [length, after @ ..] = after else { break };
                let (value, after) = after.split_at_checked(usize::from(*length))?;
                rest = after;
                match code {
                    KIND => kind = value.first().copied(),
                    SUBNET => prefix = ip(value).and_then(length_of),
                    ROUTER => gateway = ip(value),
                    DNS => dns = value.chunks_exact(4).filter_map(ip).collect(),
                    SERVER => server = ip(value),
                    LEASE => lease = value.try_into().ok().map(u32::from_be_bytes),
                    _ => {}
                }
            }
        }
    }
    let granted = || {
        let usable = !address.is_unspecified() && !address.is_broadcast() && !address.is_multicast();
        let lease = Lease { address, prefix: prefix?, gateway, dns, server: server?, seconds: lease? };
        (usable && lease.seconds > 0).then_some(lease)
    };
    match kind? {
        2 => granted().map(Answer::Offer),
        5 => granted().map(Answer::Granted),
        6 => Some(Answer::Refused),
        _ => None,
    }
}

fn ip(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?))
}

/// The length of a mask without holes.
fn length_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let length = bits.leading_ones();
    (bits.count_ones() == length && length > 0).then_some(u8::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

    fn answer(kind: u8, options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut message = encode(Question::Discover, 7, MAC, "pi-1");
        message.truncate(OPTIONS_AT);
        message[0] = 2;
        message[16..20].copy_from_slice(&[10, 0, 2, 15]);
        message.extend([KIND, 1, kind]);
        for (code, value) in options {
            message.extend([*code, value.len() as u8]);
            message.extend(*value);
        }
        message.push(END);
        message
    }

    const GOOD: [(u8, &[u8]); 5] = [
        (SUBNET, &[255, 255, 255, 0]),
        (ROUTER, &[10, 0, 2, 2]),
        (DNS, &[10, 0, 2, 3, 10, 0, 2, 4]),
        (SERVER, &[10, 0, 2, 2]),
        (LEASE, &[0, 1, 0x51, 0x80]),
    ];

    #[test]
    fn questions_are_as_servers_want_them() {
        let server = Ipv4Addr::new(10, 0, 2, 2);
        let address = Ipv4Addr::new(10, 0, 2, 15);
        let message = encode(Question::Request { address, server }, 0x0102_0304, MAC, "pi-1");
        assert!(message.len() >= 300 && message[4..8] == [1, 2, 3, 4] && message[10] == 0x80);
        let options = &message[OPTIONS_AT..];
        assert!(options.starts_with(&[KIND, 1, 3, REQUESTED, 4, 10, 0, 2, 15, SERVER, 4, 10, 0, 2, 2, CLIENT, 7, 1]));
        assert!(options.windows(6).any(|part| part == [HOST_NAME, 4, b'p', b'i', b'-', b'1']));
        let renewal = encode(Question::Renew { address }, 1, MAC, "");
        assert_eq!((&renewal[12..16], renewal[10]), (&[10, 0, 2, 15][..], 0));
    }

    #[test]
    fn answers_are_read() {
        let Some(Answer::Granted(lease)) = decode(&answer(5, &GOOD), 7, MAC) else { panic!("no lease") };
        assert_eq!((lease.address, lease.prefix, lease.seconds), (Ipv4Addr::new(10, 0, 2, 15), 24, 86_400));
        assert_eq!((lease.gateway, lease.dns.len()), (Some(Ipv4Addr::new(10, 0, 2, 2)), 2));
        assert!(matches!(decode(&answer(2, &GOOD), 7, MAC), Some(Answer::Offer(_))));
        assert_eq!(decode(&answer(6, &[]), 7, MAC), Some(Answer::Refused));
    }

    #[test]
    fn what_is_not_for_us_or_broken_is_nothing() {
        let good = answer(5, &GOOD);
        assert!(decode(&good, 8, MAC).is_none() && decode(&good, 7, [0; 6]).is_none());
        for length in 0..good.len() - 2 {
            let _ = decode(&good[..length], 7, MAC);
        }
        for missing in [SUBNET, SERVER, LEASE] {
            let options: Vec<_> = GOOD.into_iter().filter(|(code, _)| *code != missing).collect();
            assert_eq!(decode(&answer(5, &options), 7, MAC), None, "without {missing}");
        }
        assert_eq!(decode(&answer(5, &[(SUBNET, &[255, 0, 255, 0]), GOOD[3], GOOD[4]]), 7, MAC), None);
        assert_eq!(decode(&answer(5, &[(SUBNET, &[255; 200])]), 7, MAC), None);
    }
}
