//! Pure: the Wi-Fi network that a person names.

use std::fmt;
use std::net::Ipv4Addr;

use serde::Deserialize;

use super::{Mistake, interface_address};

/// A network to join by radio. Nothing is joined without a name.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Wifi {
    /// The network's name; none joins nothing.
    pub ssid: Option<String>,
    /// 8 to 63 characters, or the 64 hexadecimal digits of the key itself; empty for a network that is open to everybody.
    pub passphrase: Option<String>,
    /// Two letters: whose rules the radio keeps.
    pub country: Option<String>,
    /// The network does not tell its name.
    pub hidden: bool,
    /// `192.168.1.20/24`, instead of DHCP.
    pub address: Option<String>,
    /// The router, beside an address.
    pub gateway: Option<Ipv4Addr>,
}

impl Wifi {
    /// The network's name as people are told it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.ssid.as_deref().unwrap_or_default()
    }
}

/// Never the passphrase.
impl fmt::Debug for Wifi {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ssid, country, hidden, address, gateway, .. } = self;
        let mut shown = formatter.debug_struct("Wifi");
        shown.field("ssid", ssid).field("country", country).field("hidden", hidden);
        shown.field("address", address).field("gateway", gateway).finish_non_exhaustive()
    }
}

/// Whether it is the key itself rather than what it is made of.
pub(in crate::os) fn is_key(passphrase: &str) -> bool {
    passphrase.len() == 64 && passphrase.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What a network cannot have (IEEE 802.11, 9.4.2.2 and J.4.1). Where the name or the passphrase does not hold, none is joined.
pub(super) fn check(wifi: &mut Wifi, text: &str, mistakes: &mut Vec<Mistake>) {
    let mut wrong = |name: &str, message: &str, cure: &str| {
        mistakes.push(Mistake { line: line_of(text, name), message: message.to_owned(), cure: cure.to_owned() });
    };
    let is_passphrase = |text: &str| {
        let plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        text.is_empty() || is_key(text) || (plain && (8..=63).contains(&text.len()))
    };
    match (&wifi.ssid, &wifi.passphrase) {
        (None, None) => {}
        (None, Some(_)) => {
            wrong("passphrase", "wifi: a passphrase without ssid", "write ssid = \"NAME\" of the network")
        }
        (Some(name), _) if name.is_empty() || name.len() > 32 => {
            wrong(
                "ssid",
                "wifi.ssid is no name of a network",
                "write the network's name, 1 to 32 bytes, as it is shown elsewhere",
            );
            wifi.ssid = None;
        }
        (Some(_), None) => {
            let cure = "write passphrase = \"...\" below it; passphrase = \"\" if the network is open to everybody";
            wrong("ssid", "wifi: a network without its passphrase is not joined", cure);
            wifi.ssid = None;
        }
        (Some(_), Some(phrase)) if !is_passphrase(phrase) => {
            let cure = "8 to 63 plain characters (no umlauts), or 64 hexadecimal digits, as the access point has it";
            wrong("passphrase", "wifi.passphrase is none that a network can have", cure);
            wifi.ssid = None;
        }
        (Some(_), Some(_)) => {}
    }
    let is_country = |code: &str| code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_alphabetic());
    if let Some(code) = &mut wifi.country {
        code.make_ascii_uppercase();
        if !is_country(code) {
            wrong("country", "wifi.country is no country's code", "write two letters: \"DE\", \"GB\", \"US\"");
            wifi.country = None;
        }
    }
    if wifi.address.as_deref().is_some_and(|address| interface_address(address).is_none()) {
        wrong("address", "wifi.address is no address with its length", "write \"192.168.1.20/24\"");
        wifi.address = None;
    }
    if wifi.gateway.is_some() && wifi.address.is_none() {
        wrong("gateway", "wifi: a gateway without an address", "give wifi.address, or remove the gateway: DHCP tells");
        wifi.gateway = None;
    }
}

/// The line of a name in this table; other tables have the same names.
fn line_of(text: &str, name: &str) -> usize {
    let lines = text.lines().map(str::trim_start).enumerate();
    let mut inside = lines.skip_while(|(_, line)| !line.starts_with("[wifi]"));
    inside.find(|(_, line)| line.starts_with(name)).map_or(0, |(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use super::super::{Config, parse};
    use super::*;

    fn told(text: &str) -> (Config, Vec<Mistake>) {
        parse(text.as_bytes())
    }

    #[test]
    fn a_whole_network() {
        let text = "[wifi]\nssid = \"home\"\npassphrase = \"correct horse\"\ncountry = \"de\"\nhidden = true\n\
                    address = \"10.0.0.7/24\"\ngateway = \"10.0.0.1\"\n";
        let (config, mistakes) = told(text);
        assert_eq!(mistakes, []);
        assert_eq!((config.wifi.ssid.as_deref(), config.wifi.country.as_deref()), (Some("home"), Some("DE")));
        assert!(config.wifi.hidden && config.wifi.gateway.is_some());
        assert!(!format!("{config:?}").contains("horse"), "what is shown of it holds no secret");
        let (config, mistakes) = told("[wifi]\nssid = \"café\"\npassphrase = \"\"\n");
        assert_eq!((config.wifi.ssid.as_deref(), mistakes.len()), (Some("café"), 0), "open, on purpose");
        let key = "0123456789abcdefABCDEF".repeat(3);
        let (config, mistakes) = told(&format!("[wifi]\nssid = \"a\"\npassphrase = \"{}\"\n", &key[..64]));
        assert!(config.wifi.ssid.is_some() && mistakes.is_empty(), "{mistakes:?}");
    }

    #[test]
    fn what_no_network_can_have_is_told_with_its_line_and_never_its_value() {
        let long = "s3cret".repeat(11);
        for (text, line, word) in [
            ("[wifi]\nssid = \"home\"\n", 2, "without its passphrase"),
            ("[wifi]\npassphrase = \"s3cret-s3cret\"\n", 2, "without ssid"),
            ("[wifi]\nssid = \"\"\npassphrase = \"s3cret-s3cret\"\n", 2, "no name"),
            ("[wifi]\nssid = \"home\"\npassphrase = \"s3cret\"\n", 3, "none that"),
            ("[wifi]\nssid = \"home\"\npassphrase = \"s3cret-ü-s3cret\"\n", 3, "none that"),
            ("[wifi]\nssid = \"home\"\npassphrase = \"s3cret\\ns3cret\"\n", 3, "none that"),
            (&format!("[wifi]\nssid = \"home\"\npassphrase = \"{long}\"\n"), 3, "none that"),
            ("[network]\naddress = \"10.0.0.1/8\"\n[wifi]\naddress = \"10.0.0.7\"\n", 4, "length"),
            ("[wifi]\ngateway = \"10.0.0.1\"\n", 2, "without an address"),
            ("[wifi]\ncountry = \"Germany\"\n", 2, "country"),
        ] {
            let (config, mistakes) = told(text);
            assert!(mistakes.len() == 1 && mistakes[0].line == line, "{text}: {mistakes:?}");
            assert!(mistakes[0].message.contains(word) && config.wifi.ssid.is_none(), "{text}: {mistakes:?}");
            assert!(!mistakes[0].to_string().contains("s3cret"), "{mistakes:?}");
        }
        for text in
            ["[wifi]\npassphrase = s3cret\n", "[wifi]\npassphrase = 53733\n", "[wifi]\npassphrase = [\"s3cret\"]\n"]
        {
            let (_, mistakes) = told(text);
            assert!(!mistakes.is_empty(), "{text}");
            let shown = format!("{mistakes:?}");
            assert!(!shown.contains("s3cret") && !shown.contains("53733"), "{shown}");
        }
    }
}
