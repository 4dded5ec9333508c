//! Pure: ranges of addresses of either family, for pods and for Services. The agent has its own: the two meet on the wire only.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// The bits that every address of the family IPv4, as a number of 128 bits, begins with: none of them counts.
const V4_OFFSET: u8 = 96;

/// A range of addresses such as `10.42.0.0/16` or `fd42::/48`; bits beyond the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    base: IpAddr,
    bits: u8,
}

/// The IP family of an address, as Services write it.
pub fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// How far an address is from the first one of its family.
pub(crate) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

impl Cidr {
    /// The range of `bits` bits that holds `ip`; more bits than the family has are cut.
    pub fn new(ip: IpAddr, bits: u8) -> Self {
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let bits = bits.min(most);
        let mask = u128::MAX.checked_shl(u32::from(most - bits)).unwrap_or_default();
        Self { base: Self { base: ip, bits }.address(number(ip) & mask), bits }
    }

    /// Reads one range, or one of each family with a comma between; the first is the primary one.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn list(text: &str) -> Result<Vec<Self>, String> {
        let all: Vec<Self> = text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>()?;
        match all.as_slice() {
            [_] => Ok(all),
            [first, second] if first.is_ipv4() != second.is_ipv4() => Ok(all),
            _ => Err(format!("{text:?} must be one range, or one of IPv4 and one of IPv6")),
        }
    }

    /// Ranges as [`Self::list`] reads them.
    pub fn written(ranges: &[Self]) -> String {
        ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// Its lowest address.
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// Its highest address.
    pub fn last(&self) -> IpAddr {
        let rest = 1_u128.checked_shl(u32::from(self.most() - self.bits)).unwrap_or_default().wrapping_sub(1);
        self.address(number(self.base) | rest)
    }

    /// The length of its prefix.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether it is a range of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.base.is_ipv4()
    }

    /// `IPv4` or `IPv6`.
    pub fn family(&self) -> &'static str {
        family_of(self.base)
    }

    /// Whether the address lies in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.is_ipv4() && Self::new(ip, self.bits).base == self.base
    }

    /// How many addresses it has; those of `::/0` less one.
    pub fn size(&self) -> u128 {
        1_u128.checked_shl(u32::from(self.most() - self.bits)).unwrap_or(u128::MAX)
    }

    /// The address at a place, 0 being the base; none beyond the end.
    pub fn nth(&self, place: u128) -> Option<IpAddr> {
        (place < self.size()).then(|| self.address(number(self.base) | place))
    }

    /// The n-th of the ranges of `bits` bits in it; none beyond the end, or where it is smaller itself.
    pub fn part(&self, bits: u8, n: u32) -> Option<Self> {
        let count = 1_u128.checked_shl(u32::from(bits.checked_sub(self.bits)?)).unwrap_or(u128::MAX);
        let place = u128::from(n).checked_shl(u32::from(self.most().checked_sub(bits)?))?;
        (u128::from(n) < count).then(|| Self { base: self.address(number(self.base) | place), bits })
    }

    fn most(&self) -> u8 {
        if self.is_ipv4() { 128 - V4_OFFSET } else { 128 }
    }

    /// A number as an address of this family.
    fn address(&self, number: u128) -> IpAddr {
        match self.base {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.base, self.bits)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(ip, bits)| Some((ip.parse().ok()?, bits.parse().ok()?)));
        let fits = parsed.filter(|(ip, bits): &(IpAddr, u8)| *bits <= if ip.is_ipv4() { 32 } else { 128 });
        let (ip, bits) = fits.ok_or_else(|| format!("{text:?} is no range such as 10.42.0.0/16 or fd42::/48"))?;
        Ok(Self::new(ip, bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_have_places_and_parts() {
        let four = cidr("10.42.7.9/16");
        assert_eq!((four.to_string(), four.family(), four.size()), ("10.42.0.0/16".into(), "IPv4", 65_536));
        assert_eq!(four.nth(65_535), Some("10.42.255.255".parse().unwrap()));
        assert_eq!((four.nth(65_536), four.last()), (None, "10.42.255.255".parse().unwrap()));
        assert_eq!(cidr("::/0").last(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse::<IpAddr>().unwrap());
        assert_eq!(cidr("fd00::1/128").last(), cidr("fd00::1/128").base());
        assert_eq!(four.part(24, 255), Some(cidr("10.42.255.0/24")));
        assert_eq!((four.part(24, 256), four.part(8, 0)), (None, None));
        let six = cidr("fd42::7/48");
        assert_eq!((six.to_string(), six.family()), ("fd42::/48".into(), "IPv6"));
        assert_eq!(six.part(64, 0x1ff), Some(cidr("fd42:0:0:1ff::/64")));
        assert_eq!((six.part(64, 0xffff).is_some(), six.part(64, 0x1_0000)), (true, None));
        assert_eq!(six.nth(10), Some("fd42::a".parse().unwrap()));
        assert!(six.contains("fd42:0:0:9::1".parse().unwrap()) && !six.contains("10.42.0.1".parse().unwrap()));
        assert!(cidr("0.0.0.0/0").contains("9.9.9.9".parse().unwrap()) && cidr("::/0").size() == u128::MAX);
    }

    #[test]
    fn ranges_hold_addresses_of_their_family() {
        let holds = |range: &str, address: &str| cidr(range).contains(address.parse().unwrap());
        assert!(holds("10.0.0.7/24", "10.0.0.255") && !holds("10.0.0.0/24", "10.0.1.0"));
        assert!(holds("0.0.0.0/0", "255.255.255.255") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("::/0", "ffff::1") && holds("fd00::1/128", "fd00::1") && !holds("fd00::1/128", "fd00::2"));
        for wrong in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "a/8", "10.0.0.0/", ""] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_list_has_one_of_each_family() {
        assert_eq!(Cidr::list("10.42.0.0/16"), Ok(vec![cidr("10.42.0.0/16")]));
        assert_eq!(Cidr::list("fd42::/48, 10.42.0.0/16"), Ok(vec![cidr("fd42::/48"), cidr("10.42.0.0/16")]));
        assert_eq!(Cidr::written(&Cidr::list("fd42::/48, 10.42.0.0/16").unwrap()), "fd42::/48,10.42.0.0/16");
        for wrong in ["", "10.42.0.0", "10.42.0.0/33", "10.1.0.0/16,10.2.0.0/16", "fd42::/48,10.1.0.0/16,10.2.0.0/16"] {
            assert!(Cidr::list(wrong).is_err(), "{wrong}");
        }
    }
}
