//! Pure: which address a new pod gets.

use super::cidr::Cidr;
use core::net::IpAddr;
use std::collections::BTreeSet;

/// A pod gets one address of each range; an address that was freed is handed out again as late as possible, because
/// others may still talk to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Addresses {
    ranges: Vec<(Cidr, u32)>,
    taken: BTreeSet<IpAddr>,
}

/// The first places of a range that no pod gets: the network's own address and the board's.
const RESERVED: u32 = 2;

impl Addresses {
    /// Takes new ranges; what was handed out stays taken.
    pub(crate) fn set_ranges(&mut self, ranges: &[Cidr]) {
        if self.ranges.iter().map(|(range, _)| range).ne(ranges) {
            self.ranges = ranges.iter().map(|range| (*range, RESERVED)).collect();
        }
    }

    pub(crate) fn ranges(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.ranges.iter().map(|(range, _)| *range)
    }

    /// Marks an address as in use, as after a restart.
    pub(crate) fn take(&mut self, ip: IpAddr) {
        self.taken.insert(ip);
    }

    pub(crate) fn free(&mut self, ip: IpAddr) {
        self.taken.remove(&ip);
    }

    /// The addresses that a pod had before the board lost its power: Services and other pods know it by them. All or
    /// none, one of each range.
    pub(crate) fn claim(&mut self, former: &[IpAddr]) -> Option<Vec<IpAddr>> {
        let fits = |((range, _), ip): (&(Cidr, u32), &IpAddr)| {
            range.contains(*ip) && (0..RESERVED).all(|place| range.nth(place) != Some(*ip)) && !self.taken.contains(ip)
        };
        let all = !former.is_empty() && former.len() == self.ranges.len() && self.ranges.iter().zip(former).all(fits);
        all.then(|| {
            self.taken.extend(former);
            former.to_vec()
        })
    }

    /// One free address of each range, all or none.
    pub(crate) fn allocate(&mut self) -> Option<Vec<IpAddr>> {
        let mut found = Vec::with_capacity(self.ranges.len());
        for (range, next) in &mut self.ranges {
            // The last address of an IPv4 range is its broadcast address.
            let end = if range.is_ipv4() { range.size().saturating_sub(1) } else { range.size() };
            let places = (*next..end).chain(RESERVED..(*next).min(end));
            let (place, ip) = places
                .filter_map(|place| range.nth(place).map(|ip| (place, ip)))
                .find(|(_, ip)| !self.taken.contains(ip))?;
            *next = place + 1;
            found.push(ip);
        }
        self.taken.extend(&found);
        (!found.is_empty()).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ranges: &[&str]) -> Addresses {
        let mut addresses = Addresses::default();
        addresses.set_ranges(&ranges.iter().map(|range| range.parse().unwrap()).collect::<Vec<_>>());
        addresses
    }

    #[test]
    fn each_pod_gets_its_own_until_the_range_is_used_up() {
        let mut small = addresses(&["10.42.0.0/29"]);
        let all: Vec<_> = std::iter::from_fn(|| small.allocate()).flatten().map(|ip| ip.to_string()).collect();
        assert_eq!(all, ["10.42.0.2", "10.42.0.3", "10.42.0.4", "10.42.0.5", "10.42.0.6"]);
        small.free("10.42.0.4".parse().unwrap());
        assert_eq!(small.allocate().unwrap()[0].to_string(), "10.42.0.4");
    }

    #[test]
    fn a_pod_gets_what_it_had_if_that_is_still_its_ranges_and_free() {
        let mut range = addresses(&["10.42.0.0/24"]);
        let had = |ip: &str| [ip.parse().unwrap()];
        assert_eq!(range.claim(&had("10.42.0.9")), Some(had("10.42.0.9").to_vec()));
        assert_eq!(range.claim(&had("10.42.0.9")), None, "it is taken");
        assert_eq!(
            (range.claim(&had("10.42.7.9")), range.claim(&had("10.42.0.1")), range.claim(&[])),
            (None, None, None)
        );
        assert_eq!(range.allocate().unwrap()[0].to_string(), "10.42.0.2");
    }

    #[test]
    fn a_freed_address_rests_first() {
        let mut range = addresses(&["10.42.0.0/24"]);
        let first = range.allocate().unwrap()[0];
        range.free(first);
        assert_ne!(range.allocate().unwrap()[0], first);
    }

    #[test]
    fn a_restart_and_dual_stack_keep_addresses_apart() {
        let mut both = addresses(&["10.42.0.0/24", "fd00::/64"]);
        both.take("10.42.0.2".parse().unwrap());
        let ips: Vec<_> = both.allocate().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.42.0.3", "fd00::2"]);
        assert!(addresses(&[]).allocate().is_none());
    }
}
