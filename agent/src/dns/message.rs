//! Pure: queries read and answers written (RFC 1035, RFC 6891), within the size that the asker can take.

use super::zone::{Answer, Data, Kind, Record, Zone};
use core::net::IpAddr;
use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::message_builder::PushError;
use domain::base::name::{ParsedName, ToLabelIter};
use domain::base::{Message, MessageBuilder, Name, Serial, StaticCompressor, ToName, Ttl};
use domain::rdata::{A, Aaaa, AllRecordData, Cname, Ns, Ptr, Soa, Srv, Txt};

/// Seconds that an answer of ours may be kept; services move.
const TTL_S: u32 = 5;
/// What every asker takes over UDP (RFC 1035), and what passes every network (DNS flag day 2020).
const PLAIN_UDP_MAX: usize = 512;
pub(crate) const EDNS_UDP_MAX: u16 = 1232;

/// A question.
#[derive(Debug, Clone)]
pub(crate) struct Query<'a> {
    message: &'a Message<[u8]>,
    /// Lower case, no dot at the end.
    pub(crate) name: String,
    pub(crate) rtype: Rtype,
    pub(crate) edns: Option<Edns>,
}

/// What the asker says by EDNS(0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) udp_size: u16,
    pub(crate) dnssec_ok: bool,
}

/// How a question came, which bounds the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Udp,
    Tcp,
}

impl<'a> Query<'a> {
    /// Reads a query. `Err` holds an error answer, or nothing when it deserves none (RFC 1035 7.3: never answer an
    /// answer).
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Option<Vec<u8>>> {
        let message = Message::from_slice(bytes).map_err(|_| None)?;
        if message.header().qr() {
            return Err(None);
        }
        let refuse = |rcode| Some(error(message, rcode));
        if message.header().opcode() != Opcode::QUERY {
            return Err(refuse(Rcode::NOTIMP));
        }
        let question = message.sole_question().map_err(|_| refuse(Rcode::FORMERR))?;
        if question.qclass() != Class::IN {
            return Err(refuse(Rcode::REFUSED));
        }
        let edns = message.opt().map(|opt| Edns { udp_size: opt.udp_payload_size(), dnssec_ok: opt.dnssec_ok() });
        let name = text(question.qname());
        Ok(Self { message, name, rtype: question.qtype(), edns })
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.rtype {
            Rtype::A => Kind::A,
            Rtype::AAAA => Kind::Aaaa,
            Rtype::SRV => Kind::Srv,
            Rtype::PTR => Kind::Ptr,
            Rtype::CNAME => Kind::Cname,
            Rtype::TXT => Kind::Txt,
            Rtype::NS => Kind::Ns,
            Rtype::SOA => Kind::Soa,
            Rtype::ANY => Kind::Any,
            _ => Kind::Other,
        }
    }

    /// The most bytes that an answer may have.
    pub(crate) fn limit(&self, via: Via) -> usize {
        match (via, self.edns) {
            (Via::Tcp, _) => usize::from(u16::MAX),
            (Via::Udp, None) => PLAIN_UDP_MAX,
            (Via::Udp, Some(edns)) => usize::from(edns.udp_size.min(EDNS_UDP_MAX)).max(PLAIN_UDP_MAX),
        }
    }

    /// An answer without records.
    pub(crate) fn error(&self, rcode: Rcode) -> Vec<u8> {
        error(self.message, rcode)
    }

    /// The answer from the zone; `more` is an answer from elsewhere whose records follow an alias of ours.
    pub(crate) fn answer(&self, zone: &Zone, answer: &Answer, more: Option<&[u8]>, via: Via) -> Vec<u8> {
        self.compose(zone, answer, more, self.limit(via)).unwrap_or_else(|_| self.truncated())
    }

    /// "Ask again over TCP."
    pub(crate) fn truncated(&self) -> Vec<u8> {
        let mut bytes = error(self.message, Rcode::NOERROR);
        let truncation = 0x02;
        bytes[2] |= truncation;
        bytes
    }

    /// Another server's answer made ours: the asker's id and spelling, and no more than it can take.
    pub(crate) fn relayed(&self, mut answer: Vec<u8>, via: Via) -> Vec<u8> {
        if answer.len() > self.limit(via) {
            return self.truncated();
        }
        let asked = self.message.as_slice();
        let question = self.question_length();
        if answer.len() >= 12 + question && asked.len() >= 12 + question {
            answer[..2].copy_from_slice(&asked[..2]);
            answer[12..12 + question].copy_from_slice(&asked[12..12 + question]);
        }
        answer
    }

    /// The same question for another server, with an id of its own.
    pub(crate) fn forwarded(&self, id: u16) -> Vec<u8> {
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_id(id);
        builder.header_mut().set_rd(true);
        let mut question = builder.question();
        for at in self.message.question().flatten() {
            question.push(at).expect("one question fits into any message");
        }
        let mut additional = question.additional();
        if let Some(edns) = self.edns {
            let options = additional.opt(|opt| {
                opt.set_udp_payload_size(EDNS_UDP_MAX);
                opt.set_dnssec_ok(edns.dnssec_ok);
                Ok(())
            });
            options.expect("an empty OPT record fits into any message");
        }
        additional.finish()
    }

    /// The question behind an alias, as the asker would ask it.
    pub(crate) fn about(&self, target: &str) -> Option<Vec<u8>> {
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_rd(true);
        let mut question = builder.question();
        question.push((Name::<Vec<u8>>::vec_from_str(target).ok()?, self.rtype)).ok()?;
        Some(question.finish())
    }

    fn question_length(&self) -> usize {
        self.message.sole_question().map_or(0, |question| usize::from(question.qname().compose_len()) + 4)
    }

    fn compose(&self, zone: &Zone, answer: &Answer, more: Option<&[u8]>, limit: usize) -> Result<Vec<u8>, PushError> {
        let mut builder =
            MessageBuilder::from_target(StaticCompressor::new(Vec::new())).map_err(|_| PushError::ShortBuf)?;
        builder.set_push_limit(limit);
        let rcode = if *answer == Answer::NoSuchName { Rcode::NXDOMAIN } else { Rcode::NOERROR };
        let mut section = builder.start_answer(self.message, rcode)?;
        section.header_mut().set_aa(true);
        section.header_mut().set_ra(true);
        let (answers, additional): (&[Record], &[Record]) = match answer {
            Answer::Records { answers, additional } => (answers, additional),
            Answer::NoSuchName | Answer::Foreign => (&[], &[]),
        };
        for record in answers {
            push(zone, record, |name, data| section.push((name, Class::IN, Ttl::from_secs(TTL_S), data)))?;
        }
        if let Some(more) = more.and_then(|more| Message::from_slice(more).ok())
            && let Ok(records) = more.answer()
        {
            for record in records.into_records::<AllRecordData<_, ParsedName<_>>>().flatten() {
                section.push(record)?;
            }
        }
        let mut section = section.authority();
        if answers.is_empty() {
            let authority = (zone.domain.clone(), Data::Authority);
            push(zone, &authority, |name, data| section.push((name, Class::IN, Ttl::from_secs(TTL_S), data)))?;
        }
        let mut section = section.additional();
        for record in additional {
            // What helps but does not fit is left out.
            if push(zone, record, |name, data| section.push((name, Class::IN, Ttl::from_secs(TTL_S), data))).is_err() {
                break;
            }
        }
        if self.edns.is_some() {
            section.opt(|opt| {
                opt.set_udp_payload_size(EDNS_UDP_MAX);
                Ok(())
            })?;
        }
        Ok(section.finish().into_target())
    }
}

/// A name as text, lower case, without the last dot.
fn text(name: &impl ToName) -> String {
    let mut name = name.to_vec().to_string().to_ascii_lowercase();
    if name.ends_with('.') {
        name.pop();
    }
    name
}

fn error(message: &Message<[u8]>, rcode: Rcode) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.set_push_limit(PLAIN_UDP_MAX);
    match builder.start_answer(message, rcode) {
        Ok(mut answer) => {
            answer.header_mut().set_ra(true);
            let mut additional = answer.additional();
            if message.opt().is_some() {
                // RFC 6891 6.1.1: who speaks EDNS is answered in it; that it does not fit cannot be.
                let _ = additional.opt(|opt| {
                    opt.set_udp_payload_size(EDNS_UDP_MAX);
                    Ok(())
                });
            }
            additional.finish()
        }
        // A question that cannot be repeated.
        Err(_) => {
            let mut builder = MessageBuilder::new_vec();
            builder.header_mut().set_id(message.header().id());
            builder.header_mut().set_qr(true);
            builder.header_mut().set_rcode(rcode);
            builder.finish()
        }
    }
}

type Wire = AllRecordData<Vec<u8>, Name<Vec<u8>>>;

/// Turns a record into the wire's form; one whose name is too long for DNS is left out.
fn push(
    zone: &Zone,
    (name, data): &Record,
    write: impl FnOnce(Name<Vec<u8>>, Wire) -> Result<(), PushError>,
) -> Result<(), PushError> {
    let parse = |name: &str| Name::<Vec<u8>>::vec_from_str(name).ok();
    let wire = || -> Option<Wire> {
        Some(match data {
            Data::Address(IpAddr::V4(ip)) => A::new(*ip).into(),
            Data::Address(IpAddr::V6(ip)) => Aaaa::new(*ip).into(),
            Data::Service { port, target } => Srv::new(0, 100, *port, parse(target)?).into(),
            Data::Pointer(target) => Ptr::new(parse(target)?).into(),
            Data::Alias(target) => Cname::new(parse(target)?).into(),
            Data::NameServer(target) => Ns::new(parse(target)?).into(),
            Data::Text(text) => Txt::<Vec<u8>>::build_from_slice(text.as_bytes()).ok()?.into(),
            Data::Authority => {
                let (server, person) = (format!("ns.dns.{}", zone.domain), format!("hostmaster.{}", zone.domain));
                let seconds = Ttl::from_secs;
                let (refresh, retry, expire) = (seconds(7200), seconds(1800), seconds(86_400));
                Soa::new(parse(&server)?, parse(&person)?, Serial(1), refresh, retry, expire, seconds(TTL_S)).into()
            }
        })
    };
    match (parse(name), wire()) {
        (Some(name), Some(data)) => write(name, data),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rubbish_is_answered_or_not_but_never_believed() {
        let mut state = 1_u64;
        let mut bytes = Vec::new();
        for round in 0..20_000_usize {
            bytes.clear();
            for _ in 0..round % 64 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Mostly small numbers: lengths, counts and pointers that nearly fit.
                bytes.push(if state >> 63 == 0 { (state >> 33) as u8 & 3 } else { (state >> 40) as u8 });
            }
            match Query::parse(&bytes) {
                Ok(query) => {
                    let zone = Zone { domain: "cluster.local".to_owned(), ranges: Vec::new() };
                    assert!(
                        query.answer(&zone, &Answer::NoSuchName, Some(&bytes), Via::Udp).len() <= query.limit(Via::Udp)
                    );
                    assert!(query.relayed(bytes.clone(), Via::Udp).len() >= 12);
                    assert!(query.forwarded(7).len() >= 12);
                }
                Err(Some(refused)) => assert!(refused.len() >= 12 && refused[2] & 0x80 != 0),
                Err(None) => {}
            }
        }
    }

    #[test]
    fn an_answer_is_never_answered() {
        let mut answer = vec![0; 12];
        answer[2] = 0x80;
        assert_eq!(Query::parse(&answer).unwrap_err(), None);
        assert!(Query::parse(&[0; 12]).unwrap_err().is_some(), "no question is a format error");
    }
}
