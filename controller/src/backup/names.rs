//! Pure: names of snapshots: they tell their time and sort by it; and which of them are too many.

use crate::object::time::{format, parse};

const START: &str = "bramble-";
const END: &str = ".snapshot";

/// `bramble-2026-11-26T12:00:00Z.snapshot`, without the colons, which other systems do not take.
pub(super) fn name_of(seconds: u64) -> String {
    let time = format(i64::try_from(seconds).unwrap_or(i64::MAX)).replace(':', "-");
    format!("{START}{time}{END}")
}

/// Unix seconds of a snapshot by its name.
fn time_of(name: &str) -> Option<u64> {
    let time = name.strip_prefix(START)?.strip_suffix(END)?;
    let (day, clock) = time.split_once('T')?;
    u64::try_from(parse(&format!("{day}T{}", clock.replace('-', ":")))?).ok()
}

/// When the newest was taken.
pub(super) fn newest(names: &[String]) -> Option<u64> {
    names.iter().filter_map(|name| time_of(name)).max()
}

/// The oldest ones beyond `keep`; what is no snapshot of ours is nobody's to remove.
pub(super) fn excess(names: &[String], keep: usize) -> Vec<String> {
    let mut ours: Vec<&String> = names.iter().filter(|name| time_of(name).is_some()).collect();
    ours.sort_by_key(|name| std::cmp::Reverse(time_of(name)));
    ours.into_iter().skip(keep.max(1)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_time() {
        let name = name_of(1_795_000_000);
        assert!(!name.contains(':') && time_of(&name) == Some(1_795_000_000), "{name}");
        for foreign in ["bramble-x.snapshot", "notes", "bramble-.snapshot", "bramble-2026-11-26.snapshot"] {
            assert_eq!(time_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_oldest_go_and_one_always_stays() {
        let names: Vec<String> = [30, 10, 20].map(name_of).into_iter().chain(["notes".to_owned()]).collect();
        assert_eq!(excess(&names, 2), [name_of(10)]);
        assert_eq!(excess(&names, 0), [name_of(20), name_of(10)]);
        assert!(excess(&names, 9).is_empty());
        assert_eq!(newest(&names), Some(30));
    }
}
