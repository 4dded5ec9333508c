//! Pure: what the cluster's own names mean (Kubernetes DNS-Based Service Discovery, version 1.1.0).

use crate::network::Cidr;
use crate::services::{Endpoint, Index, Service, SlicePort};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The names that this answerer owns.
#[derive(Debug, Clone)]
pub(crate) struct Zone {
    /// Lower case, no dot at the end: `cluster.local`.
    pub(crate) domain: String,
    /// Addresses whose reverse names are ours: services and pods.
    pub(crate) ranges: Vec<Cidr>,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    Address(IpAddr),
    Service {
        port: u16,
        target: String,
    },
    Pointer(String),
    Alias(String),
    Text(&'static str),
    NameServer(String),
    /// The zone's own: its serial is the only thing that is not fixed.
    Authority,
}

/// The types that we have records of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    A,
    Aaaa,
    Srv,
    Ptr,
    Cname,
    Txt,
    Ns,
    Soa,
    Any,
    Other,
}

/// A record under a name.
pub(crate) type Record = (String, Data);

/// What is known of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Records, and more that the asker will want; both empty means that the name has other types only.
    Records {
        answers: Vec<Record>,
        additional: Vec<Record>,
    },
    NoSuchName,
    /// Not a name of ours.
    Foreign,
}

impl Answer {
    const fn empty() -> Self {
        Self::Records { answers: Vec::new(), additional: Vec::new() }
    }

    fn of(answers: Vec<Record>) -> Self {
        Self::Records { answers, additional: Vec::new() }
    }
}

impl Zone {
    /// Answers a name (lower case, without the last dot).
    pub(crate) fn answer(&self, index: &Index, name: &str, kind: Kind) -> Answer {
        if let Some(ip) = reverse(name) {
            return self.pointer(index, name, ip, kind);
        }
        let Some(below) = name.strip_suffix(&self.domain).and_then(|below| match below {
            "" => Some(""),
            _ => below.strip_suffix('.'),
        }) else {
            return Answer::Foreign;
        };
        let labels: Vec<&str> = below.split('.').filter(|label| !label.is_empty()).collect();
        match labels.as_slice() {
            [] => self.apex(name, kind),
            ["dns-version"] => {
                Answer::of(fits(kind, Kind::Txt).then(|| record(name, Data::Text("1.1.0"))).into_iter().collect())
            }
            ["svc" | "pod"] | ["dns"] => Answer::empty(),
            ["ns", "dns"] => Answer::empty(),
            [namespace, "svc"] | [namespace, "pod"] if index.has_namespace(namespace) => Answer::empty(),
            [ip, namespace, "pod"] => pod(name, ip, namespace, kind),
            [service, namespace, "svc"] => self.service(index, name, namespace, service, kind),
            [host, service, namespace, "svc"] if host.starts_with('_') => {
                self.port(index, name, namespace, service, (Some(host), None), kind)
            }
            [port, protocol, service, namespace, "svc"] if port.starts_with('_') && protocol.starts_with('_') => {
                self.port(index, name, namespace, service, (Some(protocol), Some(port)), kind)
            }
            [host, service, namespace, "svc"] => self.host(index, name, namespace, service, host, kind),
            _ => Answer::NoSuchName,
        }
    }

    fn apex(&self, name: &str, kind: Kind) -> Answer {
        let mut answers = Vec::new();
        if fits(kind, Kind::Soa) {
            answers.push(record(name, Data::Authority));
        }
        if fits(kind, Kind::Ns) {
            answers.push(record(name, Data::NameServer(format!("ns.dns.{}", self.domain))));
        }
        Answer::of(answers)
    }

    fn service(&self, index: &Index, name: &str, namespace: &str, service_name: &str, kind: Kind) -> Answer {
        let Some(service) = index.service(namespace, service_name) else { return Answer::NoSuchName };
        if let Some(target) = &service.external_name {
            return Answer::of(vec![record(name, Data::Alias(target.to_ascii_lowercase()))]);
        }
        if kind == Kind::Srv {
            return self.port(index, name, namespace, service_name, (None, None), kind);
        }
        let ips: Vec<IpAddr> = if service.headless {
            let mut ips: Vec<_> = published(index, service, namespace, service_name).map(|(at, _)| at.ip).collect();
            ips.sort();
            ips.dedup();
            ips
        } else {
            service.cluster_ips.clone()
        };
        // Headless without endpoints: the name is there as long as somebody may come back (as CoreDNS answers).
        if service.headless && ips.is_empty() {
            return Answer::NoSuchName;
        }
        Answer::of(addresses(name, ips.into_iter(), kind))
    }

    /// SRV: `_port._protocol`, or all ports.
    fn port(
        &self,
        index: &Index,
        name: &str,
        namespace: &str,
        service_name: &str,
        (protocol, port): (Option<&str>, Option<&str>),
        kind: Kind,
    ) -> Answer {
        let Some(service) = index.service(namespace, service_name) else { return Answer::NoSuchName };
        let wanted = |name: &str, number: u8| {
            protocol.is_none_or(|protocol| protocol == protocol_label(number))
                && port.is_none_or(|port| port.strip_prefix('_') == Some(&name.to_ascii_lowercase()))
        };
        let base = format!("{service_name}.{namespace}.svc.{}", self.domain);
        let (mut answers, mut additional) = (Vec::new(), Vec::new());
        if service.headless {
            for (endpoint, ports) in published(index, service, namespace, service_name) {
                for (_, _, number) in ports.iter().filter(|(name, protocol, _)| wanted(name, *protocol)) {
                    let target = format!("{}.{base}", host_label(endpoint));
                    additional.push(record(&target, Data::Address(endpoint.ip)));
                    answers.push(record(name, Data::Service { port: *number, target }));
                }
            }
        } else {
            for at in service.ports.iter().filter(|at| wanted(&at.name, at.protocol)) {
                answers.push(record(name, Data::Service { port: at.port, target: base.clone() }));
            }
            if !answers.is_empty() {
                additional = service.cluster_ips.iter().map(|ip| record(&base, Data::Address(*ip))).collect();
            }
        }
        additional.dedup();
        match (answers.is_empty(), fits(kind, Kind::Srv)) {
            (true, _) => Answer::NoSuchName,
            (false, true) => Answer::Records { answers, additional },
            (false, false) => Answer::empty(),
        }
    }

    /// One endpoint by its hostname or by its address with dashes.
    fn host(&self, index: &Index, name: &str, namespace: &str, service_name: &str, host: &str, kind: Kind) -> Answer {
        let Some(service) = index.service(namespace, service_name) else { return Answer::NoSuchName };
        let found = published(index, service, namespace, service_name).filter(|(at, _)| host_label(at) == host);
        let ips: Vec<IpAddr> = found.map(|(endpoint, _)| endpoint.ip).collect();
        if ips.is_empty() { Answer::NoSuchName } else { Answer::of(addresses(name, ips.into_iter(), kind)) }
    }

    fn pointer(&self, index: &Index, name: &str, ip: IpAddr, kind: Kind) -> Answer {
        if !self.ranges.iter().any(|range| range.contains(ip)) {
            return Answer::Foreign;
        }
        let below =
            |key: &str| key.split_once('/').map(|(namespace, name)| format!("{name}.{namespace}.svc.{}", self.domain));
        let of_service = index.by_cluster_ip(ip).and_then(below);
        let of_endpoint =
            || index.named_endpoint(ip).and_then(|(key, host)| below(key).map(|service| format!("{host}.{service}")));
        match of_service.or_else(of_endpoint) {
            None => Answer::NoSuchName,
            Some(_) if !fits(kind, Kind::Ptr) => Answer::empty(),
            Some(target) => Answer::of(vec![record(name, Data::Pointer(target))]),
        }
    }
}

fn record(name: &str, data: Data) -> Record {
    (name.to_owned(), data)
}

fn fits(asked: Kind, have: Kind) -> bool {
    asked == have || asked == Kind::Any
}

fn addresses(name: &str, ips: impl Iterator<Item = IpAddr>, kind: Kind) -> Vec<Record> {
    ips.filter(|ip| fits(kind, if ip.is_ipv4() { Kind::A } else { Kind::Aaaa }))
        .map(|ip| record(name, Data::Address(ip)))
        .collect()
}

/// The endpoints that have names: those that are ready, or all where the service says so.
fn published<'a>(
    index: &'a Index,
    service: &'a Service,
    namespace: &str,
    name: &str,
) -> impl Iterator<Item = (&'a Endpoint, &'a [SlicePort])> {
    index.endpoints(namespace, name).filter(|(endpoint, _)| endpoint.ready || service.publish_not_ready)
}

fn host_label(endpoint: &Endpoint) -> String {
    endpoint.hostname.as_deref().map_or_else(|| dashed(endpoint.ip), str::to_ascii_lowercase)
}

fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

/// `10-42-0-5.<namespace>.pod`: the address is in the name, nothing is looked up.
fn pod(name: &str, label: &str, _namespace: &str, kind: Kind) -> Answer {
    let ip = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::from);
    match ip.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::from)) {
        Ok(ip) => Answer::of(addresses(name, std::iter::once(ip), kind)),
        Err(_) => Answer::NoSuchName,
    }
}

const fn protocol_label(number: u8) -> &'static str {
    match number {
        17 => "_udp",
        132 => "_sctp",
        _ => "_tcp",
    }
}

/// The address in a full reverse name (RFC 1035 3.5, RFC 3596 2.5).
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let ip: Ipv4Addr = labels.parse().ok()?;
        let [a, b, c, d] = ip.octets();
        return Some(IpAddr::from([d, c, b, a]));
    }
    let labels = name.strip_suffix(".ip6.arpa")?;
    let digits: Vec<u8> = labels
        .split('.')
        .map(|digit| (digit.len() == 1).then(|| u8::from_str_radix(digit, 16).ok()).flatten())
        .collect::<Option<_>>()?;
    let digits: [u8; 32] = digits.try_into().ok()?;
    let bits = digits.iter().rev().fold(0_u128, |bits, digit| (bits << 4) | u128::from(*digit));
    Some(IpAddr::from(bits.to_be_bytes()))
}
