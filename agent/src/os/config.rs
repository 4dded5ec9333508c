//! Pure: `bramble.toml`, the one file that a person edits: what the board is to be. What cannot be understood is told
//! with its line and a cure, and the rest of the file holds.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Range, RangeInclusive};

use serde::Deserialize;

use crate::images::mirrors;
use crate::network::Overlay;

mod keys;
pub mod wifi;

/// A file that is longer is nobody's configuration.
pub const FILE_BYTES_MAX: usize = 256 << 10;
/// After so many mistakes it is another kind of file.
const MISTAKES_MAX: usize = 32;

/// What a board does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Controller and agent: a cluster of its own.
    #[default]
    Up,
    /// The control plane alone.
    Controller,
    /// A worker.
    Agent,
}

/// The whole file. Everything may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// `up`, `controller` or `agent`.
    pub role: Role,
    /// The node's name; by default derived from the board's serial number.
    pub node_name: Option<String>,
    /// The name of the file, beside this one, that describes the boards and where they stand; for a controller.
    pub site: Option<String>,
    /// Public keys of those who may log in.
    #[serde(rename = "ssh-key", deserialize_with = "keys::one_or_more")]
    pub ssh_keys: Vec<String>,
    /// Where an agent's controller is.
    pub controller: Controller,
    /// How the board reaches its network.
    pub network: Network,
    /// What it joins by radio.
    pub wifi: wifi::Wifi,
    /// Where images come from.
    pub registries: Registries,
    /// Plugins that connect pods in our place.
    pub cni: Cni,
    /// How a new system is judged.
    pub update: Update,
    /// Whether the board is reset when it hangs.
    pub watchdog: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            role: Role::default(),
            node_name: None,
            site: None,
            ssh_keys: Vec::new(),
            controller: Controller::default(),
            network: Network::default(),
            wifi: wifi::Wifi::default(),
            registries: Registries::default(),
            cni: Cni::default(),
            update: Update::default(),
            watchdog: true,
        }
    }
}

/// Where an agent's controller is, and how it joins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Controller {
    /// `https://10.0.0.1:6443`; the one found on this link, if none is given.
    pub address: Option<String>,
    /// What `bramble token create` printed.
    pub token: Option<String>,
    /// `sha256:` and 64 hexadecimal digits, printed beside it.
    pub ca_pin: Option<String>,
    /// Instead of the three: the name of the file that `bramble token create --bundle` wrote, beside this one.
    pub bundle: Option<String>,
}

impl Controller {
    /// Whether it says whom to work for. Where that one is may be left out: it is looked for on the link.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.address.is_some() || self.token.is_some() || self.bundle.is_some()
    }
}

/// DHCP on the first wire, unless an address is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Network {
    /// `192.168.1.20/24`.
    pub address: Option<String>,
    /// The router.
    pub gateway: Option<Ipv4Addr>,
    /// Resolvers; DHCP's otherwise.
    pub dns: Vec<IpAddr>,
    /// What joins boards that no link joins.
    pub overlay: Option<Overlay>,
    /// On a board behind a NAT: seconds between signs of life through WireGuard.
    pub overlay_keepalive: Option<u16>,
    /// Seconds that this board may be silent, 10 to 3600.
    pub node_lease_duration: Option<u16>,
}

/// CNI plugins, where pods are to be connected by them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cni {
    /// The folder whose first file is the network; without it pods are connected by ourselves.
    pub conf_dir: Option<String>,
    /// The folder of the plugins, or several with colons between.
    pub bin_dir: Option<String>,
}

/// How a system that boots for the first time is judged.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Update {
    /// Not ready by then, it is left for the former one.
    pub trial_seconds: u64,
}

impl Update {
    /// Less is no time to boot in, more is no limit.
    const TRIAL_SECONDS: RangeInclusive<u64> = 30..=86_400;
}

impl Default for Update {
    fn default() -> Self {
        Self { trial_seconds: 600 }
    }
}

/// Where images come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Registries {
    /// `host:port` of registries that are spoken to without TLS.
    pub insecure: Vec<String>,
    /// For a registry, or `*` for all others: URLs of mirrors, asked in this order before the registry itself.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// For a registry or mirror, `host[:port]`: who signs its certificate, in PEM.
    pub ca: BTreeMap<String, String>,
}

/// Something in the file that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// From one; zero where it concerns the whole.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub cure: String,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(formatter, "bramble.toml: {}\n  cure: {}", self.message, self.cure),
            line => write!(formatter, "bramble.toml, line {line}: {}\n  cure: {}", self.message, self.cure),
        }
    }
}

/// Reads the file as far as it can be understood.
#[must_use]
pub fn parse(bytes: &[u8]) -> (Config, Vec<Mistake>) {
    let whole = |message: &str, cure: &str| {
        let mistake = Mistake { line: 0, message: message.into(), cure: cure.into() };
        (Config::default(), vec![mistake])
    };
    if bytes.len() > FILE_BYTES_MAX {
        return whole("it is longer than 256 KiB", "start again from the file that the image came with");
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return whole("it is not UTF-8", "save it as plain text, UTF-8");
    };
    // Editors of other systems put a mark in front, and returns at the ends of lines.
    let mut text = text.trim_start_matches('\u{feff}').replace('\r', " ");
    let mut mistakes = Vec::new();
    let mut config = loop {
        match toml::from_str::<Config>(&text) {
            Ok(config) => break config,
            Err(_) if mistakes.len() == MISTAKES_MAX => break Config::default(),
            Err(error) => {
                let span = lines_of(&text, error.span().unwrap_or(0..text.len()));
                mistakes.push(mistake(&text, &span, error.message()));
                // The rest is read without it.
                blank(&mut text, span);
            }
        }
    };
    check(&mut config, &text, &mut mistakes);
    mistakes.sort_by_key(|mistake| mistake.line);
    (config, mistakes)
}

/// A range of bytes, made to hold whole lines.
fn lines_of(text: &str, span: Range<usize>) -> Range<usize> {
    let start = span.start.min(text.len());
    let end = span.end.clamp(start, text.len());
    let first = text.as_bytes()[..start].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    // A span that ends behind a line end means the line before it.
    let last = if end > start && text.as_bytes()[end - 1] == b'\n' { end - 1 } else { end };
    let last = text.as_bytes()[last..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| last + at);
    first..last.max(first)
}

fn blank(text: &mut String, span: Range<usize>) {
    let blanks: String = text[span.clone()].chars().map(|one| if one == '\n' { '\n' } else { ' ' }).collect();
    // Something must change, or the same mistake comes again.
    if text[span.clone()].trim().is_empty() {
        text.truncate(span.start);
    } else {
        text.replace_range(span, &blanks);
    }
}

fn line_number(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

fn mistake(text: &str, span: &Range<usize>, message: &str) -> Mistake {
    // A secret may stand on the line: the line's name is told, never its value.
    let line = text[span.clone()].trim();
    let name = line.split(['=', ' ']).next().unwrap_or_default();
    let message = message.lines().next().unwrap_or_default();
    // The parser repeats what it did not expect.
    let message = match message.split_once(", expected ") {
        Some((start, expected)) if start.starts_with("invalid ") => {
            format!("{}, expected {expected}", start.split(':').next().unwrap_or_default())
        }
        _ => message.to_owned(),
    };
    let cure = if message.starts_with("unknown field") {
        format!("correct `{name}` to one of the names above, or remove the line")
    } else if message.starts_with("unknown variant") || message.starts_with("invalid ") {
        format!("give `{name}` a value of the right kind")
    } else {
        "write NAME = \"VALUE\"; text stands in quotes, lists in [brackets]".to_owned()
    };
    Mistake { line: line_number(text, span.start), message, cure }
}

/// What a parser cannot see.
fn check(config: &mut Config, text: &str, mistakes: &mut Vec<Mistake>) {
    let mut wrong = |name: &str, message: String, cure: &str| {
        let line = text.lines().position(|line| line.trim_start().starts_with(name)).map_or(0, |at| at + 1);
        mistakes.push(Mistake { line, message, cure: cure.to_owned() });
    };
    if config.node_name.as_deref().is_some_and(|name| !is_node_name(name)) {
        let cure = "small letters, digits and dashes, at most 63 of them, a letter or digit at both ends";
        wrong("node-name", "node-name is no name that a node can have".into(), cure);
        config.node_name = None;
    }
    if config.site.as_deref().is_some_and(|name| name.is_empty() || name.contains(['/', '\\'])) {
        let cure = "copy the file beside bramble.toml and write its name alone";
        wrong("site", "site is no name of a file".into(), cure);
        config.site = None;
    }
    check_network(&mut config.network, &mut wrong);
    let controller = &mut config.controller;
    if controller.address.as_deref().is_some_and(|url| !url.starts_with("https://") || url.len() < 10) {
        wrong("address", "controller.address is no URL of a controller".into(), "write \"https://ADDRESS:6443\"");
        controller.address = None;
    }
    let is_pin = |pin: &str| {
        pin.strip_prefix("sha256:")
            .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    if controller.ca_pin.as_deref().is_some_and(|pin| !is_pin(pin)) {
        wrong("ca-pin", "controller.ca-pin is no pin".into(), "copy what `bramble token create` printed: sha256:...");
        controller.ca_pin = None;
    }
    if controller.bundle.as_deref().is_some_and(|name| name.is_empty() || name.contains(['/', '\\'])) {
        let cure = "copy the bundle beside bramble.toml and write its file name alone";
        wrong("bundle", "controller.bundle is no name of a file".into(), cure);
        controller.bundle = None;
    }
    if controller.bundle.is_some() && (controller.token.is_some() || controller.ca_pin.is_some()) {
        let cure = "remove token and ca-pin: a bundle has its own";
        wrong("bundle", "a bundle beside token or ca-pin; the bundle is used".into(), cure);
        (controller.token, controller.ca_pin) = (None, None);
    }
    if controller.token.is_some() && controller.ca_pin.is_none() {
        let cure = "copy --ca-pin from the line that `bramble token create` printed";
        wrong("token", "a token without ca-pin: the board could not tell its controller from another".into(), cure);
        controller.token = None;
    }
    if !Update::TRIAL_SECONDS.contains(&config.update.trial_seconds) {
        let cure = "write seconds from 30 to 86400, or remove the line: 600";
        wrong("trial-seconds", "update.trial-seconds is no time for a trial".into(), cure);
        config.update = Update::default();
    }
    check_registries(&mut config.registries, &mut wrong);
    check_cni(&mut config.cni, &mut wrong);
    keys::check(&mut config.ssh_keys, &mut wrong);
    if config.role == Role::Agent && !config.controller.is_named() {
        let cure =
            "write token and ca-pin below [controller], as `bramble token create` printed them, or bundle = \"FILE\"";
        wrong("role", "an agent needs a controller to join".into(), cure);
    }
    wifi::check(&mut config.wifi, text, mistakes);
}

fn check_network(network: &mut Network, wrong: &mut impl FnMut(&str, String, &str)) {
    if network.address.as_deref().is_some_and(|address| interface_address(address).is_none()) {
        wrong("address", "network.address is no address with its length".into(), "write \"192.168.1.20/24\"");
        network.address = None;
    }
    if network.gateway.is_some() && network.address.is_none() {
        wrong(
            "gateway",
            "a gateway without an address".into(),
            "give network.address, or remove the gateway: DHCP tells",
        );
        network.gateway = None;
    }
    if network.node_lease_duration.is_some_and(|seconds| !(10..=3600).contains(&seconds)) {
        let cure = "write seconds from 10 to 3600, or remove the line: 100";
        wrong("node-lease-duration", "network.node-lease-duration is no time for a board to be silent".into(), cure);
        network.node_lease_duration = None;
    }
}

fn check_registries(registries: &mut Registries, wrong: &mut impl FnMut(&str, String, &str)) {
    registries.mirrors.retain(|registry, urls| {
        urls.retain(|url| {
            let checked = mirrors::check(registry, url);
            if let Err(message) = &checked {
                let cure = "write \"docker.io\" = [\"https://HOST[:PORT]\"] below [registries.mirrors]";
                wrong(&format!("\"{registry}\""), message.clone(), cure);
            }
            checked.is_ok()
        });
        !urls.is_empty()
    });
    registries.ca.retain(|host, pem| {
        let is_host = mirrors::check("*", host).is_ok() && !host.contains("//");
        let held = is_host && pem.contains("-----BEGIN CERTIFICATE-----") && pem.contains("-----END CERTIFICATE-----");
        if !held {
            let cure = "write \"HOST[:PORT]\" = \"\"\"-----BEGIN CERTIFICATE----- ... \"\"\" below [registries.ca]";
            wrong(&format!("\"{host}\""), format!("registries.ca: no certificate for a host {host:?}"), cure);
        }
        held
    });
}

fn check_cni(cni: &mut Cni, wrong: &mut impl FnMut(&str, String, &str)) {
    let is_whole = |folders: &str| folders.split(':').all(|folder| folder.starts_with('/'));
    for (name, folder) in [("conf-dir", &mut cni.conf_dir), ("bin-dir", &mut cni.bin_dir)] {
        if let Some(told) = folder.take_if(|folder| !is_whole(folder)) {
            let cure =
                "write a path from the root, such as conf-dir = \"/data/cni/net.d\", bin-dir = \"/data/cni/bin\"";
            wrong(name, format!("cni.{name}: {told:?} is no path"), cure);
        }
    }
    if cni.bin_dir.is_some() && cni.conf_dir.is_none() {
        wrong(
            "bin-dir",
            "cni.bin-dir without conf-dir changes nothing".into(),
            "name conf-dir too, or remove the line",
        );
    }
}

fn is_node_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends = !name.starts_with('-') && !name.ends_with('-');
    !name.is_empty() && name.len() <= 63 && ends && name.bytes().all(inner)
}

/// `10.0.0.2/24`.
#[must_use]
pub fn interface_address(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (ip, length) = text.split_once('/')?;
    let length = length.parse().ok().filter(|length| (1..=32).contains(length))?;
    Some((ip.parse().ok()?, length))
}

/// The name of a node whose file gives none: from the board's serial number, which survives a reflash.
#[must_use]
pub fn default_name(serial: &str) -> String {
    let digits: String = serial.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_lowercase();
    let tail = digits.get(digits.len().saturating_sub(8)..).unwrap_or_default();
    if tail.is_empty() { "bramble".to_owned() } else { format!("bramble-{tail}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn told(text: &str) -> (Config, Vec<(usize, String)>) {
        let (config, mistakes) = parse(text.as_bytes());
        (config, mistakes.into_iter().map(|one| (one.line, one.message)).collect())
    }

    #[test]
    fn a_whole_file() {
        let text = format!(
            "\u{feff}role = \"agent\"\r\nnode-name = \"pi-1\"\r\n[controller]\naddress = \"https://10.0.0.1:6443\"\n\
             token = \"abcdef.0123456789abcdef\"\nca-pin = \"{PIN}\"\n[network]\naddress = \"10.0.0.7/24\"\n\
             gateway = \"10.0.0.1\"\ndns = [\"10.0.0.1\"]\n[registries]\ninsecure = [\"10.0.0.1:5000\"]\n\
             [update]\ntrial-seconds = 90\n"
        );
        let (config, mistakes) = told(&text);
        assert_eq!(mistakes, []);
        assert_eq!((config.role, config.node_name.as_deref()), (Role::Agent, Some("pi-1")));
        assert_eq!(config.controller.ca_pin.as_deref(), Some(PIN));
        assert_eq!(config.network.gateway, Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(config.update.trial_seconds, 90);
        assert_eq!(told(""), (Config::default(), Vec::new()));
    }

    #[test]
    fn the_rest_holds_beside_mistakes() {
        let text = "role = \"agnet\"\nnode-name = \"pi-2\"\ncolour = \"red\"\nbroken line\n[network]\n\
                    gatewai = \"10.0.0.1\"\ndns = \"10.0.0.1\"\n[registries]\ninsecure = [\"a:1\"]\n";
        let (config, mistakes) = told(text);
        let lines: Vec<usize> = mistakes.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 3, 4, 6, 7], "{mistakes:?}");
        assert!(mistakes[1].1.contains("`colour`") && mistakes[1].1.contains("node-name"), "{mistakes:?}");
        assert_eq!(config.node_name.as_deref(), Some("pi-2"));
        assert_eq!(config.registries.insecure, ["a:1"]);
    }

    #[test]
    fn what_cannot_be_meant_is_told_with_its_line() {
        for (text, line, word) in [
            ("node-name = \"Pi One\"", 1, "node-name"),
            ("site = \"/etc/site.toml\"", 1, "no name of a file"),
            ("\n[network]\naddress = \"10.0.0.7\"", 3, "length"),
            ("[network]\ngateway = \"10.0.0.1\"", 2, "without an address"),
            ("role = \"agent\"", 1, "needs a controller"),
            ("[controller]\naddress = \"http://10.0.0.1\"", 2, "no URL"),
            ("[cni]\nconf-dir = \"net.d\"", 2, "no path"),
            ("[cni]\nbin-dir = \"/data/bin\"", 2, "without conf-dir"),
            ("[controller]\nca-pin = \"sha256:00\"", 2, "no pin"),
            ("[controller]\ntoken = \"a.b\"", 2, "without ca-pin"),
            ("[controller]\nbundle = \"../x\"", 2, "no name of a file"),
            ("[update]\ntrial-seconds = 5", 2, "no time"),
            ("[controller]\ntoken = \"a.b\"\nbundle = \"x\"", 3, "the bundle is used"),
        ] {
            let (_, mistakes) = told(text);
            assert_eq!(mistakes.len(), 1, "{text}: {mistakes:?}");
            assert!(mistakes[0].0 == line && mistakes[0].1.contains(word), "{text}: {mistakes:?}");
        }
    }

    #[test]
    fn rubbish_ends_and_names_no_secret() {
        for bytes in [&b"\xff\xfe"[..], &[b'['; 5000], &[0; 100], "a = 1\n".repeat(50).as_bytes()] {
            let (config, mistakes) = parse(bytes);
            assert!(!mistakes.is_empty() && mistakes.len() <= MISTAKES_MAX + 1);
            assert_eq!(config, Config::default());
        }
        assert_eq!(parse(&vec![b'#'; FILE_BYTES_MAX + 1]).1.len(), 1);
        let (_, mistakes) = parse(b"[controller]\ntoken = s3cret\n");
        assert!(!mistakes.is_empty() && mistakes.iter().all(|one| !one.to_string().contains("s3cret")), "{mistakes:?}");
        let (_, mistakes) = parse(b"[controller]\ntoken = 12345678\n");
        assert!(mistakes.len() == 1 && !mistakes[0].to_string().contains("12345678"), "{mistakes:?}");
    }

    #[test]
    fn mirrors_and_their_authorities() {
        let text = "[registries.mirrors]\n\"docker.io\" = [\"http://10.0.0.1:5000\", \"ftp://x\"]\n\"a/b\" = [\"https://m\"]\n\
                    [registries.ca]\n\"m.lan\" = \"\"\"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\"\"\"\n\
                    \"https://n\" = \"x\"\n";
        let (config, mistakes) = told(text);
        let registries = config.registries;
        assert_eq!(registries.mirrors["docker.io"], ["http://10.0.0.1:5000"]);
        assert_eq!((registries.mirrors.len(), registries.ca.len()), (1, 1));
        assert!(registries.ca.contains_key("m.lan"));
        assert_eq!(mistakes.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3, 8], "{mistakes:?}");
    }

    #[test]
    fn a_name_from_the_serial_number() {
        assert_eq!(default_name("10000000abcdef12\0"), "bramble-abcdef12");
        assert_eq!(default_name(""), "bramble");
    }
}
