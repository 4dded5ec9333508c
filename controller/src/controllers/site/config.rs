//! Pure: the file that says what the site consists of. One mistake, and none of it holds.
//!
//! ```toml
//! region = "home"
//! # Boards that no zone names do not exist any more: their Nodes go when they are silent.
//! authoritative = true
//!
//! [[zone]]
//! name = "attic"
//! boards = ["pi-1", "rack-*"]         # names of nodes; * is any text, ? one letter
//! networks = ["192.168.1.0/24"]       # or where their InternalIP lies
//!
//! [[instance-type]]                   # otherwise the board's model
//! name = "pi4-8g"
//! boards = ["rack-*"]
//! ```

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::ops::Range as Span;

use serde::Deserialize;
use toml::Spanned;

use crate::cidr::Cidr;
use crate::schema::names;

/// A file that is longer describes no site.
pub const FILE_BYTES_MAX: usize = 256 << 10;

/// Something in the file that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct Mistake {
    /// From one.
    pub line: usize,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// Which boards there are, and where they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    region: Option<String>,
    authoritative: bool,
    zones: Vec<Zone>,
    types: Vec<Type>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Zone {
    name: String,
    boards: Vec<Pattern>,
    networks: Vec<Cidr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Type {
    name: String,
    boards: Vec<Pattern>,
}

/// A board's name, or what many boards' names look like.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    region: Option<Spanned<String>>,
    authoritative: Option<Spanned<bool>>,
    #[serde(default, rename = "zone")]
    zones: Vec<ZoneText>,
    #[serde(default, rename = "instance-type")]
    types: Vec<TypeText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ZoneText {
    name: Spanned<String>,
    #[serde(default)]
    boards: Vec<Spanned<String>>,
    #[serde(default)]
    networks: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypeText {
    name: Spanned<String>,
    boards: Vec<Spanned<String>>,
}

impl Site {
    /// Reads the whole file.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of lines; of a file that is no TOML the first mistake.
    pub fn parse(bytes: &[u8]) -> Result<Site, Vec<Mistake>> {
        let whole = |message: &str| vec![Mistake { line: 1, message: message.to_owned() }];
        if bytes.len() > FILE_BYTES_MAX {
            return Err(whole("the file is longer than 256 KiB"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| whole("the file is not UTF-8"))?;
        let line = |at: usize| text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
        let file: File = toml::from_str(text).map_err(|error| {
            let message = error.message().lines().next().unwrap_or_default().to_owned();
            vec![Mistake { line: line(error.span().map_or(0, |span| span.start)), message }]
        })?;
        let mut checked = Checked::default();
        let site = checked.site(file);
        let mut mistakes: Vec<Mistake> =
            checked.mistakes.into_iter().map(|(at, message)| Mistake { line: line(at), message }).collect();
        mistakes.sort_by_key(|mistake| mistake.line);
        if mistakes.is_empty() { Ok(site) } else { Err(mistakes) }
    }

    /// Where all boards of the site are.
    pub(crate) fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// The zone of a board by its name, else by its addresses; the first that fits, a whole name before a pattern.
    pub(crate) fn zone(&self, name: &str, addresses: &[IpAddr]) -> Option<&str> {
        let named = |zone: &&Zone| zone.boards.iter().any(|board| board.0 == name);
        let like = |zone: &&Zone| zone.boards.iter().any(|board| board.fits(name));
        let near = |zone: &&Zone| addresses.iter().any(|ip| zone.networks.iter().any(|network| network.contains(*ip)));
        let zones = || self.zones.iter();
        let found = zones().find(named).or_else(|| zones().find(like)).or_else(|| zones().find(near));
        found.map(|zone| zone.name.as_str())
    }

    /// Whether a board's zone can depend on its addresses.
    pub(crate) fn asks_addresses(&self) -> bool {
        self.zones.iter().any(|zone| !zone.networks.is_empty())
    }

    /// What the file says that a board is.
    pub(crate) fn instance_type(&self, name: &str) -> Option<&str> {
        let fits = |of: &&Type| of.boards.iter().any(|board| board.fits(name));
        self.types.iter().find(fits).map(|of| of.name.as_str())
    }

    /// Whether there is such a board. Only a file that names all of them can say no.
    pub(crate) fn exists(&self, name: &str) -> bool {
        !self.authoritative || self.zones.iter().any(|zone| zone.boards.iter().any(|board| board.0 == name))
    }
}

impl Pattern {
    fn is_name(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// Goes back to the last star where the rest does not fit: no text makes it slow.
    fn fits(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut place) = (0, 0);
        let mut star = None;
        while place < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, place));
                    at += 1;
                }
                Some(byte) if *byte == b'?' || *byte == name[place] => {
                    at += 1;
                    place += 1;
                }
                _ => match &mut star {
                    Some((behind, taken)) => {
                        *taken += 1;
                        (at, place) = (*behind + 1, *taken);
                    }
                    None => return false,
                },
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

/// Gathers mistakes: the place in bytes and a sentence.
#[derive(Default)]
struct Checked {
    mistakes: Vec<(usize, String)>,
    /// Zones by the boards that they name.
    named: BTreeMap<String, String>,
}

impl Checked {
    fn wrong(&mut self, span: &Span<usize>, message: String) {
        self.mistakes.push((span.start, message));
    }

    fn site(&mut self, file: File) -> Site {
        let region = file.region.map(|region| self.label(region));
        let mut zones: Vec<Zone> = Vec::new();
        for text in file.zones {
            let span = text.name.span();
            let zone = self.zone(text);
            if zones.iter().any(|known| known.name == zone.name) {
                self.wrong(&span, format!("zone {:?} stands here a second time: write its boards into one", zone.name));
            }
            zones.push(zone);
        }
        let types = file.types.into_iter().map(|text| {
            let name = self.label(text.name);
            Type { name, boards: text.boards.into_iter().map(|board| self.pattern(board)).collect() }
        });
        let types = types.collect();
        let authoritative = file.authoritative.as_ref().is_some_and(|told| *told.get_ref());
        if let Some(told) = file.authoritative.filter(|_| authoritative) {
            let named = !zones.is_empty() && zones.iter().all(|zone| zone.boards.iter().all(Pattern::is_name));
            if !named || zones.iter().all(|zone| zone.boards.is_empty()) {
                let why = "`authoritative` needs every board by its whole name in some zone: patterns name no board";
                self.wrong(&told.span(), why.to_owned());
            }
        }
        Site { region, authoritative, zones, types }
    }

    fn zone(&mut self, text: ZoneText) -> Zone {
        let span = text.name.span();
        let name = self.label(text.name);
        if text.boards.is_empty() && text.networks.is_empty() {
            self.wrong(&span, format!("zone {name:?} has neither boards nor networks: nothing stands in it"));
        }
        let mut boards = Vec::new();
        for board in text.boards {
            let span = board.span();
            let board = self.pattern(board);
            let former = if board.is_name() { self.named.insert(board.0.clone(), name.clone()) } else { None };
            if let Some(former) = former.filter(|former| *former != name) {
                self.wrong(&span, format!("board {:?} stands in zone {former:?} already", board.0));
            }
            boards.push(board);
        }
        let mut networks = Vec::new();
        for network in text.networks {
            match network.get_ref().trim().parse::<Cidr>() {
                Ok(range) => networks.push(range),
                Err(_) => {
                    let why = format!("{:?} is no network: write one such as \"192.168.1.0/24\"", network.get_ref());
                    self.wrong(&network.span(), why);
                }
            }
        }
        Zone { name, boards, networks }
    }

    /// A text that becomes a label's value.
    fn label(&mut self, text: Spanned<String>) -> String {
        let span = text.span();
        let text = text.into_inner();
        if text.is_empty() || !names::label_value_errors(&text).is_empty() {
            let cure = "write at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends";
            self.wrong(&span, format!("{text:?} cannot be the value of a label: {cure}"));
        }
        text
    }

    fn pattern(&mut self, text: Spanned<String>) -> Pattern {
        let span = text.span();
        let text = text.into_inner();
        let fits = |one: char| one.is_ascii_lowercase() || one.is_ascii_digit() || "-.*?".contains(one);
        if text.is_empty() || text.len() > 253 || !text.chars().all(fits) {
            let cure = "write its node's name, or a pattern with * and ?";
            self.wrong(&span, format!("{text:?} is no board's name: {cure}"));
        }
        Pattern(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = r#"
region = "home"

[[zone]]
name = "attic"
boards = ["pi-1", "rack-*"]

[[zone]]
name = "cellar"
boards = ["rack-9", "pi-?"]
networks = ["192.168.2.0/24", "fd00:2::/64"]

[[instance-type]]
name = "pi4-8g"
boards = ["rack-*"]
"#;

    fn told(text: &str) -> Vec<(usize, String)> {
        let mistakes = Site::parse(text.as_bytes()).unwrap_err();
        mistakes.into_iter().map(|mistake| (mistake.line, mistake.message)).collect()
    }

    #[test]
    fn a_board_stands_where_its_name_or_its_address_says() {
        let site = Site::parse(HOME.as_bytes()).unwrap();
        assert_eq!((site.region(), site.asks_addresses()), (Some("home"), true));
        let zone = |name: &str, ip: &str| site.zone(name, &[ip.parse().unwrap()]).map(str::to_owned);
        for (name, ip, wanted) in [
            ("pi-1", "192.168.2.1", Some("attic")),
            ("pi-2", "10.0.0.1", Some("cellar")),
            ("rack-1", "10.0.0.1", Some("attic")),
            ("rack-9", "10.0.0.1", Some("cellar")),
            ("other", "192.168.2.7", Some("cellar")),
            ("other", "fd00:2::9", Some("cellar")),
            ("other", "10.0.0.1", None),
        ] {
            assert_eq!(zone(name, ip).as_deref(), wanted, "{name} {ip}");
        }
        assert_eq!((site.instance_type("rack-1"), site.instance_type("pi-1")), (Some("pi4-8g"), None));
        assert!(site.exists("anybody"), "a file that is not authoritative denies nobody");
        assert_eq!(Site::parse(b"").unwrap(), Site::default());
    }

    #[test]
    fn patterns_are_whole_and_end() {
        let fits = |pattern: &str, name: &str| Pattern(pattern.into()).fits(name);
        assert!(fits("*", "") && fits("a*c", "abbc") && fits("*-1", "a-1-1") && fits("a?c*", "abc"));
        assert!(!fits("a*c", "abcd") && !fits("?", "") && !fits("a", "ab") && !fits("", "a"));
        assert!(!fits(&"*a".repeat(100), &"b".repeat(5_000)));
    }

    #[test]
    fn only_a_file_that_names_every_board_denies_others() {
        let text = "authoritative = true\n[[zone]]\nname = \"a\"\nboards = [\"pi-1\"]\nnetworks = [\"10.0.0.0/8\"]\n";
        let site = Site::parse(text.as_bytes()).unwrap();
        assert!(site.exists("pi-1") && !site.exists("pi-2"));
        let patterns = told("authoritative = true\n[[zone]]\nname = \"a\"\nboards = [\"pi-*\"]\n");
        assert!(patterns[0].0 == 1 && patterns[0].1.contains("whole name"), "{patterns:?}");
        let nobody = told("region = \"r\"\nauthoritative = true\n");
        assert_eq!(nobody[0].0, 2);
        assert!(Site::parse(b"authoritative = false\n[[zone]]\nname = \"a\"\nboards = [\"*\"]\n").is_ok());
    }

    #[test]
    fn mistakes_are_told_with_their_lines() {
        for (text, line, words) in [
            ("\nregion = \"my home\"", 2, "value of a label"),
            ("\n\ncolour = \"red\"", 3, "unknown field"),
            ("[[zone]]\nname = \"a\"", 2, "neither boards nor networks"),
            ("[[zone]]\nboards = [\"a\"]", 1, "missing field"),
            ("[[zone]]\nname = \"a\"\nboards = [\"Pi One\"]", 3, "no board's name"),
            ("[[zone]]\nname = \"a\"\nnetworks = [\n\"10.0.0.0\"]", 4, "no network"),
            ("[[zone]]\nname = \"a\"\nboards = [\"*\"]\n[[zone]]\nname = \"a\"\nboards = [\"b\"]", 5, "second time"),
            ("[[instance-type]]\nname = \"\"\nboards = [\"*\"]", 2, "value of a label"),
            ("region = home", 1, ""),
            ("region = 7", 1, "invalid type"),
        ] {
            let mistakes = told(text);
            assert!(mistakes[0].0 == line && mistakes[0].1.contains(words), "{text}: {mistakes:?}");
        }
        let twice = told("[[zone]]\nname = \"a\"\nboards = [\"b\"]\n[[zone]]\nname = \"c\"\nboards = [\"b\"]");
        assert_eq!(twice, [(6, "board \"b\" stands in zone \"a\" already".to_owned())]);
        let several = told("region = \"-\"\n[[zone]]\nname = \"a\"\nboards = [\"_\"]\nnetworks = [\"x\"]");
        assert_eq!(several.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 4, 5]);
        for rubbish in [&b"\xff\xfe"[..], &[b'['; 5000], &[0; 100], &vec![b'#'; FILE_BYTES_MAX + 1]] {
            assert_eq!(Site::parse(rubbish).unwrap_err().len(), 1);
        }
    }
}
