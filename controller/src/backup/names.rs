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
pub(super) fn time_of(name: &str) -> Option<u64> {
    let time = name.strip_prefix(START)?.strip_suffix(END)?;
    let (day, clock) = time.split_once('T')?;
    u64::try_from(parse(&format!("{day}T{}", clock.replace('-', ":")))?).ok()
}

/// What has another name is nobody's to count or to remove.
pub(super) fn is_ours(name: &str) -> bool {
    time_of(name).is_some()
}

/// When the newest was taken.
pub(super) fn newest<'a>(names: impl Iterator<Item = &'a str>) -> Option<u64> {
    names.filter_map(time_of).max()
}

/// The oldest ones beyond `keep`, of names and sizes.
pub(super) fn excess(there: Vec<(String, u64)>, keep: usize) -> Vec<String> {
    let mut ours: Vec<String> = there.into_iter().map(|(name, _)| name).filter(|name| is_ours(name)).collect();
    ours.sort_by_key(|name| std::cmp::Reverse(time_of(name)));
    ours.into_iter().skip(keep.max(1)).collect()
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
        let there = || names.iter().map(|name| (name.clone(), 1)).collect();
        assert_eq!(excess(there(), 2), [name_of(10)]);
        assert_eq!(excess(there(), 0), [name_of(20), name_of(10)]);
        assert!(excess(there(), 9).is_empty());
        assert_eq!(newest(names.iter().map(String::as_str)), Some(30));
    }
}
