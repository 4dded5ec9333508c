//! Pure: where the store's keys lie in etcd, and how its revisions are counted.

use crate::record::Revision;

/// Where a migrated store began: its revisions are etcd's with this many added, so that none is ever used twice.
pub(super) const ORIGIN: &str = ".origin/offset";
/// Written to make an event of ours (see `Inner::reach`).
pub(super) const TICK: &str = ".tick/now";
/// How many compactions there were (its version), and up to where the last one went.
pub(super) const COMPACT: &str = ".compact/revision";

/// One cluster's part of etcd.
#[derive(Debug)]
pub(super) struct Keys {
    /// Ends with a slash.
    root: String,
    offset: u64,
}

/// Keys from `start` on, before `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: Vec<u8>,
    pub(super) end: Vec<u8>,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Keys {
        Keys { root: format!("{}/", prefix.trim_end_matches('/')), offset: 0 }
    }

    pub(super) fn begin_at(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// A key of ours in etcd.
    pub(super) fn outer(&self, key: &str) -> Vec<u8> {
        [self.root.as_bytes(), key.as_bytes()].concat()
    }

    /// The inverse; none where it is no key of ours.
    pub(super) fn inner<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(key.strip_prefix(self.root.as_bytes())?).ok()
    }

    /// Everything that is ours, the engine's own keys too.
    pub(super) fn everything(&self) -> Range {
        Range { start: self.root.clone().into_bytes(), end: after_prefix(self.root.as_bytes()) }
    }

    /// Keys that begin with `prefix` and come after `after`. The engine's own ones, which begin with a dot, only where
    /// the prefix says so.
    pub(super) fn range(&self, prefix: &str, after: Option<&str>) -> Range {
        let begin = self.outer(prefix);
        let end = after_prefix(&begin);
        // No resource begins with a character before the slash but the engine's own.
        let mut start = if prefix.is_empty() { self.outer("/") } else { begin };
        if let Some(after) = after {
            let next = [&self.outer(after)[..], &[0]].concat();
            start = start.max(next);
        }
        Range { start, end }
    }

    /// etcd's revision as the store shows it.
    pub(super) fn shown(&self, revision: i64) -> Revision {
        Revision(self.offset + u64::try_from(revision).unwrap_or_default())
    }

    /// The inverse; none for what was before this etcd.
    pub(super) fn own(&self, revision: Revision) -> Option<i64> {
        i64::try_from(revision.0.checked_sub(self.offset)?).ok().filter(|own| *own > 0)
    }
}

/// The first key after all that begin with these bytes.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // To the end of all keys.
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_they_should_and_nothing_of_the_neighbours() {
        let keys = Keys::new("/registry");
        let holds = |range: &Range, key: &str| *range.start <= *key.as_bytes() && *key.as_bytes() < *range.end;
        let pods = keys.range("pods/", None);
        assert!(holds(&pods, "/registry/pods/a/b") && !holds(&pods, "/registry/pods.metrics/a"));
        let rest = keys.range("pods/", Some("pods/a"));
        assert!(!holds(&rest, "/registry/pods/a") && holds(&rest, "/registry/pods/a-b"));
        let all = keys.range("", None);
        assert!(holds(&all, "/registry/a/b") && holds(&all, "/registry/_x/b") && !holds(&all, "/registry/.tick/now"));
        assert!(!holds(&all, "/registry2/a/b") && holds(&keys.everything(), "/registry/.tick/now"));
        assert!(holds(&keys.range(".sealing/", None), "/registry/.sealing/1"));
        assert_eq!(keys.inner(b"/registry/pods/a"), Some("pods/a"));
        assert_eq!(keys.inner(b"/other/pods/a"), None);
        assert_eq!(after_prefix(b"a\xff"), b"b");
    }

    #[test]
    fn revisions_go_on_where_a_migrated_store_began() {
        let mut keys = Keys::new("x/");
        keys.begin_at(1000);
        assert_eq!(keys.shown(7), Revision(1007));
        assert_eq!(keys.own(Revision(1007)), Some(7));
        assert_eq!(keys.own(Revision(1000)), None);
        assert_eq!(keys.own(Revision(7)), None);
    }
}
