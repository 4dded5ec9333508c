//! Pure: questions and answers of multicast DNS about controllers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use domain::base::iana::{Class, Rtype};
use domain::base::message_builder::{AdditionalBuilder, PushError};
use domain::base::name::ParsedName;
use domain::base::{CharStr, Message, MessageBuilder, Name, ParsedRecord, RecordData, ToName, Ttl};
use domain::rdata::rfc1035::TxtBuilder;
use domain::rdata::{A, AllRecordData, Ptr, Srv, Txt};

use crate::link::Endpoint;

/// What controllers are found by.
pub(super) const SERVICE: &str = "_bramble._tcp.local";
/// What lists the services of a link (RFC 6763, 9).
const SERVICES: &str = "_services._dns-sd._udp.local";
/// How long an answer holds (RFC 6762, 10), and the most that one may who does not listen to changes (6.7).
const TTL: Ttl = Ttl::from_secs(120);
const TTL_LEGACY: Ttl = Ttl::from_secs(10);
/// Nobody else has a record of this name (RFC 6762, 10.2).
const UNIQUE: u16 = 0x8000;
const PIN: &str = "pin=";
/// More of them do not go into one packet.
const PINS_MAX: usize = 8;
/// More records than this are nonsense.
const RECORDS_MAX: usize = 128;

type Wire = AllRecordData<Vec<u8>, Name<Vec<u8>>>;

/// What a controller tells its link.
#[derive(Debug, Clone)]
pub struct Announcement {
    /// Where it is reached.
    pub address: SocketAddr,
    /// The pins of its authorities, `sha256:` and 64 digits each, the newest first: a board may have slept through the change.
    pub pins: Vec<String>,
    /// Its node's name.
    pub node_name: String,
}

impl Announcement {
    /// The host's own name, which no other cluster's controller has.
    fn label(&self) -> String {
        let pin = self.pins.first().map(String::as_str).unwrap_or_default();
        let of_cluster: String = pin.trim_start_matches("sha256:").chars().take(8).collect();
        // A name has labels of at most 63 bytes.
        let node: String = self.node_name.chars().filter(|one| one.is_ascii_alphanumeric() || *one == '-').collect();
        format!("{}-{of_cluster}", &node[..node.len().min(54)])
    }

    fn txt(&self) -> Option<Txt<Vec<u8>>> {
        let mut builder = TxtBuilder::<Vec<u8>>::new();
        for pin in self.pins.iter().take(PINS_MAX) {
            let one = CharStr::<Vec<u8>>::from_octets(format!("{PIN}{pin}").into_bytes()).ok()?;
            builder.append_charstr(&one).ok()?;
        }
        builder.finish().ok()
    }

    fn records(&self) -> Vec<(String, bool, Wire)> {
        let host = format!("{}.local", self.label());
        let instance = format!("{}.{SERVICE}", self.label());
        let parse = |name: &str| Name::<Vec<u8>>::vec_from_str(name).ok();
        let records = [
            (SERVICE.to_owned(), false, parse(&instance).map(|name| Ptr::new(name).into())),
            (SERVICES.to_owned(), false, parse(SERVICE).map(|name| Ptr::new(name).into())),
            (instance.clone(), true, parse(&host).map(|name| Srv::new(0, 0, self.address.port(), name).into())),
            (instance, true, self.txt().map(Into::into)),
            (host, true, v4(self.address.ip()).map(|ip| A::new(ip).into())),
        ];
        records.into_iter().filter_map(|(name, unique, data)| Some((name, unique, data?))).collect()
    }

    /// The answer to a message, if it asks for something of ours. `legacy`: somebody who knows plain DNS only.
    pub(super) fn answer(&self, bytes: &[u8], legacy: bool) -> Option<Vec<u8>> {
        let message = Message::from_slice(bytes).ok()?;
        if message.header().qr() || message.header().opcode().to_int() != 0 {
            return None;
        }
        let asked: Vec<(String, Rtype)> = message
            .question()
            .flatten()
            .take(RECORDS_MAX)
            .filter(|question| matches!(question.qclass().to_int() & !UNIQUE, 1 | 255))
            .map(|question| (text(question.qname()), question.qtype()))
            .collect();
        let records = self.records();
        let is_asked = |(name, _, data): &&(String, bool, Wire)| {
            asked.iter().any(|(wanted, rtype)| wanted.eq_ignore_ascii_case(name) && matches(*rtype, data))
        };
        if !records.iter().any(|record| is_asked(&record)) {
            return None;
        }
        compose(message, &records, is_asked, legacy).ok()
    }
}

/// What is asked for as answers, the rest beside them.
fn compose(
    message: &Message<[u8]>,
    records: &[(String, bool, Wire)],
    is_asked: impl Fn(&&(String, bool, Wire)) -> bool,
    legacy: bool,
) -> Result<Vec<u8>, PushError> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_qr(true);
    builder.header_mut().set_aa(true);
    let mut questions = builder.question();
    if legacy {
        questions.header_mut().set_id(message.header().id());
        for question in message.question().flatten() {
            questions.push(question)?;
        }
    }
    let mut answers = questions.answer();
    let record = |(name, unique, data): &(String, bool, Wire)| {
        let class = Class::from_int(1 | if *unique && !legacy { UNIQUE } else { 0 });
        let name = Name::<Vec<u8>>::vec_from_str(name).map_err(|_| PushError::ShortBuf)?;
        Ok::<_, PushError>((name, class, if legacy { TTL_LEGACY } else { TTL }, data.clone()))
    };
    for one in records.iter().filter(&is_asked) {
        answers.push(record(one)?)?;
    }
    let mut additional: AdditionalBuilder<Vec<u8>> = answers.additional();
    for one in records.iter().filter(|one| !is_asked(one) && one.0 != SERVICES) {
        additional.push(record(one)?)?;
    }
    Ok(additional.finish())
}

fn matches(rtype: Rtype, data: &Wire) -> bool {
    rtype == Rtype::ANY || rtype == data.rtype()
}

fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

/// Lower case, without the last dot.
fn text(name: &impl ToName) -> String {
    name.to_vec().to_string().trim_end_matches('.').to_ascii_lowercase()
}

/// The question for controllers.
pub(super) fn query() -> Vec<u8> {
    let mut question = MessageBuilder::new_vec().question();
    let name = Name::<Vec<u8>>::vec_from_str(SERVICE).expect("a name");
    question.push((name, Rtype::PTR)).expect("one question fits into any message");
    question.finish()
}

/// A controller that answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    ip: Ipv4Addr,
    port: u16,
    pub(super) pins: Vec<String>,
}

impl Found {
    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint { host: self.ip.to_string(), port: self.port }
    }
}

/// The controllers that a message tells of; nothing of one that is no answer.
pub(super) fn parse(bytes: &[u8]) -> Vec<Found> {
    let Ok(message) = Message::from_slice(bytes) else { return Vec::new() };
    if !message.header().qr() {
        return Vec::new();
    }
    let (mut services, mut pins, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    let suffix = format!(".{SERVICE}");
    let records = message.iter().flatten().take(RECORDS_MAX).map(|(record, _)| record);
    for record in records {
        let name = text(&record.owner());
        match data(&record) {
            Some(AllRecordData::Srv(srv)) if name.ends_with(&suffix) => {
                services.push((name, srv.port(), text(srv.target())));
            }
            Some(AllRecordData::Txt(txt)) if name.ends_with(&suffix) => {
                let all = txt.iter().filter_map(|part| std::str::from_utf8(part).ok()?.strip_prefix(PIN));
                let all: Vec<String> = all.take(PINS_MAX).map(str::to_owned).collect();
                pins.extend(Some((name, all)).filter(|(_, all)| !all.is_empty()));
            }
            Some(AllRecordData::A(a)) => addresses.push((name, a.addr())),
            _ => {}
        }
    }
    let of = |(name, port, host): (String, u16, String)| {
        let pins = pins.iter().find(|(owner, _)| *owner == name).map(|(_, pins)| pins.clone());
        let ip = addresses.iter().find(|(owner, _)| *owner == host).map(|(_, ip)| *ip);
        Some(Found { ip: ip?, port, pins: pins? })
    };
    services.into_iter().filter_map(of).collect()
}

fn data<'a>(record: &ParsedRecord<'a, [u8]>) -> Option<AllRecordData<&'a [u8], ParsedName<&'a [u8]>>> {
    record.to_any_record().ok().map(|record| record.into_data())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller() -> Announcement {
        let pins = ["ab", "cd"].map(|two| format!("sha256:{}", two.repeat(32))).to_vec();
        Announcement { address: "10.0.0.1:6443".parse().unwrap(), pins, node_name: "pi-1".into() }
    }

    fn question(name: &str, rtype: Rtype) -> Vec<u8> {
        let mut question = MessageBuilder::new_vec().question();
        question.header_mut().set_id(7);
        question.push((Name::<Vec<u8>>::vec_from_str(name).unwrap(), rtype)).unwrap();
        question.finish()
    }

    #[test]
    fn a_board_finds_its_controller() {
        let one = controller();
        for legacy in [true, false] {
            let answer = one.answer(&query(), legacy).unwrap();
            let found = parse(&answer);
            assert_eq!(found, [Found { ip: Ipv4Addr::new(10, 0, 0, 1), port: 6443, pins: one.pins.clone() }]);
            assert_eq!(found[0].endpoint().authority(), "10.0.0.1:6443");
        }
    }

    #[test]
    fn whoever_speaks_plain_dns_is_answered_in_it() {
        let answer = controller().answer(&question("PI-1-abababab.local", Rtype::A), true).unwrap();
        let message = Message::from_slice(&answer).unwrap();
        assert_eq!(
            (message.header().id(), message.header_counts().qdcount(), message.header_counts().ancount()),
            (7, 1, 1)
        );
        let record = message.answer().unwrap().next().unwrap().unwrap();
        assert_eq!((record.class(), record.ttl()), (Class::IN, TTL_LEGACY));
        let answer = controller().answer(&question(SERVICES, Rtype::ANY), false).unwrap();
        assert_eq!(Message::from_slice(&answer).unwrap().header().id(), 0);
    }

    #[test]
    fn what_is_not_for_us_is_not_answered() {
        let one = controller();
        assert_eq!(one.answer(&question("_ipp._tcp.local", Rtype::PTR), true), None);
        assert_eq!(one.answer(&question(SERVICE, Rtype::A), true), None);
        let answer = one.answer(&query(), true).unwrap();
        assert_eq!(one.answer(&answer, true), None, "an answer is no question");
        assert_eq!(parse(&query()), []);
    }

    #[test]
    fn rubbish_is_not_believed() {
        let answer = controller().answer(&query(), false).unwrap();
        for at in 0..answer.len() {
            assert!(parse(&answer[..at]).len() <= 1);
            let mut bytes = answer.clone();
            bytes[at] ^= 0xff;
            assert!(parse(&bytes).len() <= 1);
            let _ = controller().answer(&bytes, true);
        }
    }
}
