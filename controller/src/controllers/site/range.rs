//! Pure: ranges of addresses of either family.

use core::net::IpAddr;

/// `10.0.0.0/24`, `fd00::/64`: the first and the last address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// The families have nothing in common.
    pub(super) v6: bool,
    pub(super) first: u128,
    pub(super) last: u128,
}

impl Range {
    /// `None` when it is no address with its length. Places behind the length are ignored, as routes ignore them.
    pub(super) fn parse(text: &str) -> Option<Range> {
        let (address, length) = text.trim().split_once('/')?;
        let (address, length): (IpAddr, u32) = (address.parse().ok()?, length.parse().ok()?);
        let bits = if address.is_ipv6() { 128 } else { 32 };
        if length > bits {
            return None;
        }
        let rest = (1u128.checked_shl(bits - length).unwrap_or_default()).wrapping_sub(1);
        let number = number(address);
        Some(Range { v6: address.is_ipv6(), first: number & !rest, last: number | rest })
    }

    pub(super) fn holds(&self, address: IpAddr) -> bool {
        address.is_ipv6() == self.v6 && (self.first..=self.last).contains(&number(address))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_addresses_of_their_family() {
        let holds = |range: &str, address: &str| Range::parse(range).unwrap().holds(address.parse().unwrap());
        assert!(holds("10.0.0.7/24", "10.0.0.255") && !holds("10.0.0.0/24", "10.0.1.0"));
        assert!(holds("0.0.0.0/0", "255.255.255.255") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("::/0", "ffff::1") && holds("fd00::1/128", "fd00::1") && !holds("fd00::1/128", "fd00::2"));
        for wrong in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "a/8", "10.0.0.0/", ""] {
            assert_eq!(Range::parse(wrong), None, "{wrong}");
        }
    }
}
