//! What the binary consists of, by crate: a build that keeps its symbols, read by binutils' `nm`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use bramble_tests::host::{cargo, need, succeed, workspace};

/// Crates below this part of the whole are one row.
const LEAST_PART: f64 = 0.01;
/// Generic code of these is made for the crate that uses it; what names no other is theirs.
const LIBRARY: [&str; 3] = ["core", "alloc", "std"];

/// Megabytes by crate, largest first, of everything that lies in the file.
pub(crate) fn by_crate() -> Vec<(String, f64)> {
    need("nm", "binutils");
    let table = succeed(Command::new("nm").args(["-C", "-S"]).arg(with_symbols()));
    let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
    for (size, name) in table.lines().filter_map(symbol) {
        *sizes.entry(owner(name)).or_default() += size;
    }
    let whole: u64 = sizes.values().sum();
    let mut rows: Vec<(String, f64)> =
        sizes.into_iter().map(|(name, size)| (name.to_owned(), size as f64 / 1e6)).collect();
    let least = whole as f64 / 1e6 * LEAST_PART;
    let small: f64 = rows.iter().filter(|(_, size)| *size < least).map(|(_, size)| size).sum();
    rows.retain(|(_, size)| *size >= least);
    rows.sort_by(|a, b| b.1.total_cmp(&a.1));
    rows.push(("each below 1 %".to_owned(), small));
    rows
}

/// The release binary again, linked without stripping; a later `cargo build --release` links the stripped one anew.
fn with_symbols() -> PathBuf {
    let mut build = cargo();
    build.args(["rustc", "--release", "-p", "bramble-agent", "--bin", "bramble", "--message-format=json"]);
    build.args(["--", "-C", "strip=none"]).current_dir(workspace()).stderr(Stdio::inherit());
    let messages = succeed(&mut build);
    let path = messages.lines().rev().find_map(|line| {
        let line = line.split_once("\"executable\":\"")?.1;
        line.split('"').next().map(PathBuf::from)
    });
    path.expect("cargo names the executable")
}

/// Size and name of a symbol that takes room in the file: `address size type name`.
fn symbol(line: &str) -> Option<(u64, &str)> {
    let mut words = line.splitn(4, ' ');
    let (_, size, kind, name) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let zeroed = kind.eq_ignore_ascii_case("b");
    (!zeroed).then_some((u64::from_str_radix(size, 16).ok()?, name))
}

/// The first crate in the name that is not the library's; `C and assembler` for what is no path.
fn owner(name: &str) -> &str {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut first = None;
    let mut rest = name;
    while let Some(at) = rest.find("::") {
        let start = rest[..at].rfind(|c| !is_word(c)).map_or(0, |before| before + 1);
        let (word, whole_before) = (&rest[start..at], &rest[..start]);
        // A path begins here, it does not go on.
        if !word.is_empty() && !whole_before.ends_with("::") {
            if !LIBRARY.contains(&word) {
                return word;
            }
            first = first.or(Some(word));
        }
        rest = rest[at + 2..].trim_start_matches(is_word);
    }
    first.unwrap_or("C and assembler")
}
