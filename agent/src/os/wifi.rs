//! Pure: what `wpa_supplicant` is told of the network to join, and what its lines mean to people.

use std::fmt::Write;

use super::config::wifi::{Wifi, is_key};

/// Its configuration, which holds the passphrase; none where no network is named. The name goes as hexadecimal digits, and a
/// passphrase holds no line end, so neither can say anything else.
#[must_use]
pub fn configuration(wifi: &Wifi) -> Option<String> {
    let (name, phrase) = (wifi.ssid.as_deref()?, wifi.passphrase.as_deref()?);
    let mut text = String::new();
    if let Some(code) = &wifi.country {
        let _ = writeln!(text, "country={code}");
    }
    // Management frames are protected where both can; WPA3 in both of its ways.
    text.push_str("pmf=1\nsae_pwe=2\nnetwork={\n");
    let name: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    let _ = writeln!(text, "ssid={name}\nscan_ssid={}", u8::from(wifi.hidden));
    let _ = match phrase {
        "" => writeln!(text, "key_mgmt=NONE"),
        // WPA3 needs what the key is made of.
        key if is_key(key) => writeln!(text, "key_mgmt=WPA-PSK WPA-PSK-SHA256\npsk={key}"),
        phrase => writeln!(text, "key_mgmt=WPA-PSK WPA-PSK-SHA256 SAE\npsk=\"{phrase}\""),
    };
    text.push_str("}\n");
    Some(text)
}

/// `wpa_supplicant` in the foreground, for one radio.
#[must_use]
pub fn command_line(radio: &str, configuration: &str) -> Vec<String> {
    ["/bin/wpa_supplicant", "-D", "nl80211", "-i", radio, "-c", configuration].map(str::to_owned).to_vec()
}

/// How the radio is. `Seeks -> Joined -> Seeks ...`; a wrong passphrase is tried again, later and later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Air {
    /// Not joined yet, or not any more.
    #[default]
    Seeks,
    /// Nobody with this name, and a lock that we know, is heard.
    Unheard,
    /// The access point does not take the passphrase.
    WrongKey,
    /// The access point refuses for another reason.
    Refused,
    /// Joined.
    Joined,
}

impl Air {
    /// What a person is told.
    #[must_use]
    pub fn words(self, name: &str) -> String {
        match self {
            Self::Seeks => format!("looks for {name:?}"),
            Self::Unheard => format!(
                "{name:?} is not heard here, or it wants other than wifi.passphrase says; its name is written in small and \
                 capital letters as there, and country must allow its channel"
            ),
            Self::WrongKey => {
                format!("{name:?} does not take the passphrase; cure: correct wifi.passphrase in bramble.toml")
            }
            Self::Refused => format!("{name:?} refuses this board; it is tried again"),
            Self::Joined => format!("joined {name:?}"),
        }
    }

    /// How it is after one of `wpa_supplicant`'s lines.
    #[must_use]
    pub fn after(self, line: &str) -> Self {
        let event = |name: &str| line.contains(name);
        if event("CTRL-EVENT-CONNECTED") {
            Self::Joined
        } else if event("CTRL-EVENT-SSID-TEMP-DISABLED") {
            // The last word is the reason, behind a name that others chose.
            if line.ends_with("reason=WRONG_KEY") { Self::WrongKey } else { self.unless_wrong(Self::Refused) }
        } else if event("CTRL-EVENT-NETWORK-NOT-FOUND") {
            self.unless_wrong(Self::Unheard)
        } else if event("CTRL-EVENT-DISCONNECTED") && self == Self::Joined {
            Self::Seeks
        } else {
            self
        }
    }

    /// While it waits with a wrong passphrase, other failures say less.
    fn unless_wrong(self, other: Self) -> Self {
        if self == Self::WrongKey { self } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wifi(ssid: &str, passphrase: &str) -> Wifi {
        Wifi { ssid: Some(ssid.into()), passphrase: Some(passphrase.into()), ..Wifi::default() }
    }

    #[test]
    fn a_network_is_written_as_it_is_read() {
        let home = Wifi { country: Some("DE".into()), ..wifi("home\"\n}", "correct \"horse\" # 1") };
        assert_eq!(
            configuration(&home).unwrap(),
            "country=DE\npmf=1\nsae_pwe=2\nnetwork={\nssid=686f6d65220a7d\nscan_ssid=0\n\
             key_mgmt=WPA-PSK WPA-PSK-SHA256 SAE\npsk=\"correct \"horse\" # 1\"\n}\n"
        );
        assert!(configuration(&wifi("a", &"0a".repeat(32))).unwrap().contains("\npsk=0a0a"));
        let open = configuration(&Wifi { hidden: true, ..wifi("a", "") }).unwrap();
        assert!(open.contains("key_mgmt=NONE") && open.contains("scan_ssid=1") && !open.contains("psk"));
        assert_eq!(configuration(&Wifi::default()), None);
    }

    #[test]
    fn lines_are_understood() {
        let lines = [
            ("wlan0: CTRL-EVENT-SCAN-STARTED ", Air::Seeks),
            ("wlan0: CTRL-EVENT-NETWORK-NOT-FOUND ", Air::Unheard),
            (
                "wlan0: CTRL-EVENT-SSID-TEMP-DISABLED id=0 ssid=\"a\" auth_failures=1 duration=10 reason=WRONG_KEY",
                Air::WrongKey,
            ),
            ("wlan0: CTRL-EVENT-NETWORK-NOT-FOUND ", Air::WrongKey),
            ("wlan0: CTRL-EVENT-CONNECTED - Connection to 02:00:00:00:01:00 completed [id=0 id_str=]", Air::Joined),
            ("wlan0: WPA: Group rekeying completed with 02:00:00:00:01:00 [GTK=CCMP]", Air::Joined),
            ("wlan0: CTRL-EVENT-DISCONNECTED bssid=02:00:00:00:01:00 reason=3", Air::Seeks),
            (
                "wlan0: CTRL-EVENT-SSID-TEMP-DISABLED id=0 ssid=\"reason=WRONG_KEY\" duration=10 reason=CONN_FAILED",
                Air::Refused,
            ),
        ];
        let mut air = Air::default();
        for (line, after) in lines {
            air = air.after(line);
            assert_eq!(air, after, "{line}");
            assert!(air.words("home").contains("\"home\""));
        }
    }
}
