//! Pure: the command line: what each verb takes, and its help. Each verb is a file below.

mod admin;
pub(crate) mod apply;
pub(crate) mod certificate;
pub(crate) mod check;
pub(crate) mod config_file;
pub(crate) mod daemon;
pub(crate) mod demo;
pub(crate) mod down;
pub(crate) mod hello;
mod help;
pub(crate) mod image;
pub(crate) mod init;
pub(crate) mod logs;
pub(crate) mod node;
mod options;
mod ranges;
pub(crate) mod slot;
pub(crate) mod snapshot;
pub(crate) mod store;
pub(crate) mod token;
pub(crate) mod up;
mod verbs;

use std::ffi::OsString;

use lexopt::prelude::*;

pub(crate) use help::HELP;
pub(crate) use options::Options;
use options::option;
pub(crate) use verbs::{CertificateVerb, Command, ImageVerb, NodeVerb, SlotVerb, SnapshotVerb, StoreVerb, TokenVerb};

/// Parses everything after the program's name.
///
/// # Errors
/// An unknown verb or option, a missing value, one word too many.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<(Command, Options), lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(args);
    let (mut words, mut options, mut purge, mut port) = (Vec::<String>::new(), Options::default(), false, 8080);
    let (mut from, mut to) = (String::new(), String::new());
    while let Some(arg) = parser.next()? {
        match arg {
            Long("help") | Short('h') => return Ok((Command::Help, options)),
            Long("version") | Short('V') => return Ok((Command::Version, options)),
            Long("purge") => purge = true,
            Long("from") => from = parser.value()?.string()?,
            Long("to") => to = parser.value()?.string()?,
            Long("port") => port = parser.value()?.parse()?,
            Long(name) => {
                let name = name.to_owned();
                option(&mut options, &name, &mut parser)?;
            }
            Value(word) => words.push(word.string()?),
            other @ Short(_) => return Err(other.unexpected()),
        }
    }
    Ok((command(&words, purge, port, (&from, &to))?, options))
}

/// Whether a migration goes into etcd.
fn migration(ends: (&str, &str)) -> Result<bool, lexopt::Error> {
    match ends {
        ("file", "etcd") => Ok(true),
        ("etcd", "file") => Ok(false),
        _ => Err("say `--from file --to etcd` or `--from etcd --to file`".into()),
    }
}

/// The verb that the words name.
fn command(words: &[String], purge: bool, port: u16, ends: (&str, &str)) -> Result<Command, lexopt::Error> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(match words.as_slice() {
        [] => Command::Help,
        ["up"] => Command::Up,
        ["controller"] => Command::Controller,
        ["agent"] => Command::Agent,
        ["down"] => Command::Down { purge },
        ["check"] => Command::Check,
        ["demo"] => Command::Demo,
        ["hello"] => Command::Hello { port },
        ["token", "create"] => Command::Token(TokenVerb::Create),
        ["token", "list"] => Command::Token(TokenVerb::List),
        ["token", "revoke", id] => Command::Token(TokenVerb::Revoke((*id).to_owned())),
        ["node", "list"] => Command::Node(NodeVerb::List),
        ["node", "revoke", name] => Command::Node(NodeVerb::Revoke((*name).to_owned())),
        ["node", "readmit", name] => Command::Node(NodeVerb::Readmit((*name).to_owned())),
        ["snapshot", "save", file] => Command::Snapshot(SnapshotVerb::Save(file.into())),
        ["snapshot", "inspect", file] => Command::Snapshot(SnapshotVerb::Inspect(file.into())),
        ["snapshot", "restore", file] => Command::Snapshot(SnapshotVerb::Restore(file.into())),
        ["snapshot", "list"] => Command::Snapshot(SnapshotVerb::List),
        ["snapshot", "fetch", name, file] => {
            Command::Snapshot(SnapshotVerb::Fetch { name: (*name).to_owned(), file: file.into() })
        }
        ["certificate", "check"] => Command::Certificate(CertificateVerb::Check),
        ["certificate", "rotate"] => Command::Certificate(CertificateVerb::Rotate),
        ["certificate", "rotate-ca"] => Command::Certificate(CertificateVerb::RotateCa),
        ["certificate", "retire-ca"] => Command::Certificate(CertificateVerb::RetireCa),
        ["store", "rotate"] => Command::Store(StoreVerb::Rotate),
        ["image", "import", path] => Command::Image(ImageVerb::Import { path: path.into(), name: None }),
        ["image", "import", path, name] => {
            Command::Image(ImageVerb::Import { path: path.into(), name: Some((*name).to_owned()) })
        }
        ["image", "list"] => Command::Image(ImageVerb::List),
        ["image", "customise", image] => Command::Image(ImageVerb::Customise(image.into())),
        ["image", "flash", image, device] => {
            Command::Image(ImageVerb::Flash { image: image.into(), device: device.into() })
        }
        ["image", "rm", name] => Command::Image(ImageVerb::Remove((*name).to_owned())),
        ["store", "migrate"] => Command::Store(StoreVerb::Migrate { to_etcd: migration(ends)? }),
        ["store", "salvage", to] => Command::Store(StoreVerb::Salvage(to.into())),
        ["logs"] => Command::Logs(None),
        ["logs", target] => Command::Logs(Some((*target).to_owned())),
        ["slot", "status"] => Command::Slot(SlotVerb::Status),
        ["slot", "install", file] => Command::Slot(SlotVerb::Install(file.into())),
        ["slot", "confirm"] => Command::Slot(SlotVerb::Confirm),
        ["apply", path] => Command::Apply(path.into()),
        ["init"] => Command::Init,
        ["reboot"] => Command::Reboot { off: false },
        ["poweroff"] => Command::Reboot { off: true },
        other => return Err(format!("`bramble {}` is no command; `bramble --help` lists them", other.join(" ")).into()),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn parsed(line: &str) -> Result<(Command, Options), lexopt::Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn up_takes_its_directories() {
        let (command, options) = parsed("up --demo --data-dir /a --run-dir=/b --listen 127.0.0.1:7443").unwrap();
        assert_eq!(command, Command::Up);
        assert!(options.demo);
        assert_eq!(options.data_dir, PathBuf::from("/a"));
        assert_eq!(options.run_dir, PathBuf::from("/b"));
        assert_eq!(options.listen, ["127.0.0.1:7443"]);
    }

    #[test]
    fn etcd_servers_are_a_list() {
        let (_, options) = parsed("controller --etcd-servers https://a:2379,https://b:2379 --etcd-prefix /x").unwrap();
        assert_eq!(options.etcd.servers, ["https://a:2379", "https://b:2379"]);
        assert_eq!(options.etcd.prefix, "/x");
    }

    #[test]
    fn a_wrong_word_is_named_in_the_error() {
        assert!(parsed("image eat x").unwrap_err().to_string().contains("image eat x"));
        assert!(parsed("up --colour red").unwrap_err().to_string().contains("--colour"));
    }

    #[test]
    fn a_store_is_salvaged_into_a_file() {
        let (command, _) = parsed("store salvage /tmp/new.redb --data-dir /a").unwrap();
        assert_eq!(command, Command::Store(StoreVerb::Salvage("/tmp/new.redb".into())));
        assert!(parsed("store salvage").is_err());
    }

    #[test]
    fn a_store_goes_into_etcd_and_back() {
        let (command, _) = parsed("store migrate --from file --to etcd").unwrap();
        assert_eq!(command, Command::Store(StoreVerb::Migrate { to_etcd: true }));
        assert!(parsed("store migrate --from etcd --to etcd").is_err());
    }

    #[test]
    fn an_image_may_be_renamed_on_import() {
        let (command, _) = parsed("image import x.tar local/x:1").unwrap();
        assert_eq!(command, Command::Image(ImageVerb::Import { path: "x.tar".into(), name: Some("local/x:1".into()) }));
    }
}
