//! Shell: the cluster's ranges of addresses: as the command line has them, else as the board was told when it joined.

use anyhow::{Context, anyhow};
use bramble_agent::network::{Cidr, Ranges};

use super::Options;

/// Pods' and Services', where nobody says otherwise.
pub(crate) const USUAL: [&str; 2] = ["10.42.0.0/16", "10.43.0.0/16"];
/// Their flags.
const FLAGS: [&str; 2] = ["--cluster-cidr", "--service-cidr"];
/// Where a board keeps them, in its folder of the data directory.
const FILES: [&str; 2] = ["cluster-ranges", "service-ranges"];

fn said(options: &Options) -> [Option<&String>; 2] {
    [options.cluster_cidr.as_ref(), options.service_cidr.as_ref()]
}

/// A controller's, pods' first.
pub(crate) fn of_controller(options: &Options) -> [String; 2] {
    let said = said(options);
    [0, 1].map(|at| said[at].map_or(USUAL[at], String::as_str).to_owned())
}

/// A controller's as flags, for the agent beside it too.
pub(super) fn flags(options: &Options) -> impl Iterator<Item = String> {
    FLAGS.into_iter().zip(of_controller(options)).flat_map(|(flag, value)| [flag.to_owned(), value])
}

/// An agent's: those of the command line, of its `bundle`, or of the time when it had one of these. They are kept.
///
/// # Errors
/// What is no range, and what the card says.
pub(super) fn of_agent(options: &Options, bundle: Option<&[String; 2]>) -> anyhow::Result<[Vec<Cidr>; 2]> {
    let read = |at: usize| -> anyhow::Result<Vec<Cidr>> {
        let file = Ranges::named(&options.data_dir, FILES[at]);
        let told = said(options)[at].or(bundle.map(|told| &told[at])).map(String::as_str);
        let known = file.load();
        if told.is_none() && !known.is_empty() {
            return Ok(known);
        }
        let ranges = Cidr::list(told.unwrap_or(USUAL[at])).map_err(|why| anyhow!("{}: {why}", FLAGS[at]))?;
        file.save(&ranges).with_context(|| format!("cannot keep the ranges below {}", options.data_dir.display()))?;
        Ok(ranges)
    };
    Ok([read(0)?, read(1)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_remembers_what_it_was_told() {
        let data_dir = std::env::temp_dir().join(format!("bramble-ranges-{}", std::process::id()));
        let options = Options { data_dir: data_dir.clone(), ..Options::default() };
        let texts = |ranges: [Vec<Cidr>; 2]| {
            ranges.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
        };
        assert_eq!(texts(of_agent(&options, None).unwrap()), USUAL);
        let both = ["10.42.0.0/16,fd42::/48", "10.43.0.0/16,fd43::/112"].map(str::to_owned);
        assert_eq!(texts(of_agent(&options, Some(&both)).unwrap()), both);
        assert_eq!(texts(of_agent(&options, None).unwrap()), both);
        let own = Options { cluster_cidr: Some("10.9.0.0/16".into()), ..options.clone() };
        assert_eq!(texts(of_agent(&own, Some(&both)).unwrap())[0], "10.9.0.0/16");
        let wrong = Options { service_cidr: Some("10.9.0.0".into()), ..options };
        assert!(of_agent(&wrong, None).unwrap_err().to_string().starts_with("--service-cidr"));
        std::fs::remove_dir_all(data_dir).unwrap();
    }
}
