//! Pure: the addresses that the site gives to load balancers.

use core::net::IpAddr;

use crate::cidr::{Cidr, family_of, number};

/// Ranges of either family, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool(pub(super) Vec<(IpAddr, IpAddr)>);

impl Pool {
    /// Adds `192.168.1.240-192.168.1.250`, `192.168.1.240/28`, `fd00::c8-fd00::cf` or one address.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let address = |text: &str| text.trim().parse::<IpAddr>().ok();
        let range = match (text.split_once('-'), text.split_once('/')) {
            (Some((first, last)), _) => address(first).zip(address(last)),
            (_, Some(_)) => text.trim().parse::<Cidr>().ok().map(|range| (range.base(), range.last())),
            _ => address(text).map(|one| (one, one)),
        };
        let range = range.filter(|(first, last)| first.is_ipv4() == last.is_ipv4() && first <= last);
        self.0.push(range.ok_or_else(|| {
            format!("{text:?} is no range of addresses, such as 192.168.1.240-192.168.1.250 or fd00::c8-fd00::cf")
        })?);
        Ok(())
    }

    pub(super) fn holds(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|(first, last)| ip.is_ipv4() == first.is_ipv4() && (*first..=*last).contains(&ip))
    }

    /// Whether it has addresses of a family at all.
    pub(super) fn serves(&self, family: &str) -> bool {
        self.0.iter().any(|(first, _)| family_of(*first) == family)
    }

    /// Those of a family that are given without being asked for: in most networks the first and the last of 256 are no
    /// host's, and the first one of an IPv6 network is all of its routers'.
    pub(super) fn addresses(&self, family: &str) -> impl Iterator<Item = IpAddr> {
        let ranges = self.0.iter().filter(move |(first, _)| family_of(*first) == family);
        let all = ranges.flat_map(|(first, last)| {
            let whole = Cidr::new(*first, 0);
            let (first, last) = (number(*first), number(*last));
            (first..=last).filter_map(move |place| whole.nth(place))
        });
        all.filter(|ip| match ip {
            IpAddr::V4(ip) => !matches!(ip.octets()[3], 0 | 255),
            IpAddr::V6(ip) => ip.segments()[4..] != [0; 4],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_read_in_every_spelling() {
        let mut pool = Pool::default();
        for range in ["10.0.0.10-10.0.0.12", "10.0.1.0/30", "10.0.2.1", "fd00::c8-fd00::cf", "fd01::/126", "fd02::/64"]
        {
            pool.add(range).unwrap();
        }
        assert_eq!(pool.addresses("IPv4").count(), 7, "10.0.1.0 is for who asks for it");
        let first: Vec<String> = pool.addresses("IPv6").take(12).map(|ip| ip.to_string()).collect();
        assert_eq!((first[0].as_str(), first[8].as_str(), first[11].as_str()), ("fd00::c8", "fd01::1", "fd02::1"));
        assert!(pool.holds("fd01::".parse().unwrap()) && !pool.holds("fd01::4".parse().unwrap()));
        assert!(!pool.holds("::a00:a".parse().unwrap()), "10.0.0.10 as a number is another address");
        for wrong in ["10.0.0.12-10.0.0.10", "10.0.0.0/33", "10.0.0.1-fd00::1", "fd00::1/129", ""] {
            assert!(pool.add(wrong).unwrap_err().contains("no range"), "{wrong}");
        }
    }
}
