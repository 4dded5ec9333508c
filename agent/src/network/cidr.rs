//! Pure: ranges of addresses, IPv4 and IPv6.

use core::net::IpAddr;
use std::fmt;
use std::str::FromStr;

/// A range of addresses such as `10.42.0.0/24`; bits beyond the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    base: IpAddr,
    bits: u8,
}

/// The text is no range of addresses.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no range such as 10.42.0.0/24, nor one of each family such as 10.42.0.0/16,fd42::/48")]
pub struct BadCidr(String);

impl Cidr {
    /// The range of `bits` bits that holds `ip`; more bits than the family has are cut.
    #[must_use]
    pub fn new(ip: IpAddr, bits: u8) -> Self {
        match ip {
            IpAddr::V4(ip) => {
                let bits = bits.min(32);
                let mask = u32::MAX.checked_shl(u32::from(32 - bits)).unwrap_or(0);
                Self { base: IpAddr::from((u32::from(ip) & mask).to_be_bytes()), bits }
            }
            IpAddr::V6(ip) => {
                let bits = bits.min(128);
                let mask = u128::MAX.checked_shl(u32::from(128 - bits)).unwrap_or(0);
                Self { base: IpAddr::from((u128::from(ip) & mask).to_be_bytes()), bits }
            }
        }
    }

    /// Reads one range, or one of each family with a comma between; the first is the primary one.
    ///
    /// # Errors
    /// A part that is no range; the whole text where it has two of one family, or more.
    pub fn list(text: &str) -> Result<Vec<Self>, BadCidr> {
        let all: Vec<Self> = text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>()?;
        match all.as_slice() {
            [_] => Ok(all),
            [first, second] if first.is_ipv4() != second.is_ipv4() => Ok(all),
            _ => Err(BadCidr(text.to_owned())),
        }
    }

    /// The lowest address.
    #[must_use]
    pub const fn base(&self) -> IpAddr {
        self.base
    }

    /// The length of the prefix.
    #[must_use]
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether it is a range of IPv4.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.base.is_ipv4()
    }

    /// Whether the address lies in the range.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.is_ipv4() && Self::new(ip, self.bits).base == self.base
    }

    /// The address at this place of the range, 0 being the base; none when the range is shorter.
    #[must_use]
    pub fn nth(&self, place: u32) -> Option<IpAddr> {
        let ip = match self.base {
            IpAddr::V4(base) => IpAddr::from(u32::from(base).checked_add(place)?.to_be_bytes()),
            IpAddr::V6(base) => IpAddr::from(u128::from(base).checked_add(u128::from(place))?.to_be_bytes()),
        };
        self.contains(ip).then_some(ip)
    }

    /// How many addresses it has, at most `u32::MAX`.
    #[must_use]
    pub fn size(&self) -> u32 {
        let free = u32::from(if self.is_ipv4() { 32 } else { 128 } - self.bits);
        1_u32.checked_shl(free).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.base, self.bits)
    }
}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let bad = || BadCidr(text.to_owned());
        let (ip, bits) = text.split_once('/').ok_or_else(bad)?;
        let (ip, bits): (IpAddr, u8) = (ip.parse().map_err(|_| bad())?, bits.parse().map_err(|_| bad())?);
        if bits > if ip.is_ipv4() { 32 } else { 128 } { Err(bad()) } else { Ok(Self::new(ip, bits)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_its_addresses_and_no_other() {
        let range: Cidr = "10.42.7.9/24".parse().unwrap();
        assert_eq!(range.to_string(), "10.42.7.0/24");
        assert_eq!(range.nth(255), Some("10.42.7.255".parse().unwrap()));
        assert_eq!(range.nth(256), None);
        assert!(!range.contains("10.42.8.1".parse().unwrap()));
        let six: Cidr = "fd00:1::/64".parse().unwrap();
        assert_eq!(six.nth(10), Some("fd00:1::a".parse().unwrap()));
        assert_eq!(six.size(), u32::MAX);
        assert!(Cidr::new("1.2.3.4".parse().unwrap(), 0).contains("9.9.9.9".parse().unwrap()));
    }

    #[test]
    fn a_list_has_one_of_each_family() {
        let both = Cidr::list("fd42::/48, 10.42.0.0/16").unwrap();
        assert_eq!(both.iter().map(Cidr::is_ipv4).collect::<Vec<_>>(), [false, true]);
        for text in ["", "10.42.0.0/16,", "10.42.0.0/16,10.43.0.0/16", "fd42::/48,10.42.0.0/16,fd43::/48"] {
            assert!(Cidr::list(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "10.42.0.0", "10.42.0.0/33", "fd00::/129", "x/8", "10.42.0.0/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
