//! Pure: batches that were accepted, in order, and are not published yet.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::WriteError;
use crate::history::{Event, EventKind};
use crate::record::{Revision, Version};
use crate::write::{Change, Durability, Precondition, Write};

/// A key's state as the next batch sees it.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) version: Option<Version>,
    /// The weakest promise that its staged writes made, together.
    pub(crate) floor: Durability,
    /// The revision of its first staged deferred write.
    pub(crate) deferred: Option<Revision>,
}

/// Accepted batches with their events, and the state that they lead to.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    pub(crate) pending: HashMap<Arc<str>, Pending>,
    pub(crate) events: Vec<Event>,
}

/// A key's present state, for preconditions.
pub(crate) enum Current {
    Version(Version),
    Absent,
    /// Damaged at rest: only a write without precondition may pass.
    Damaged,
}

/// The events of a batch at `revision`, if all its preconditions hold in the state that `current` tells. A batch that
/// changes nothing has none.
pub(crate) fn evaluate(
    batch: &[Write],
    revision: Revision,
    mut current: impl FnMut(&str) -> Result<Current, WriteError>,
) -> Result<Vec<Event>, WriteError> {
    let mut events = Vec::with_capacity(batch.len());
    for write in batch {
        let (now, damaged) = match current(&write.key)? {
            Current::Version(version) => (Some(version), false),
            Current::Absent => (None, false),
            Current::Damaged if write.precondition == Precondition::Any => (None, true),
            Current::Damaged => return Err(WriteError::Corrupt { key: write.key.clone() }),
        };
        let holds = match write.precondition {
            Precondition::Any => true,
            Precondition::Absent => now.is_none(),
            Precondition::Present => now.is_some(),
            Precondition::At(revision) => now.as_ref().is_some_and(|version| version.revision == revision),
        };
        if !holds {
            return Err(WriteError::Conflict { key: write.key.clone(), current: now.map(|version| version.revision) });
        }
        let (kind, value) = match (&write.change, &now) {
            (Change::Put(value), _) => (EventKind::Put, value.clone()),
            (Change::Delete, Some(version)) => (EventKind::Delete, version.value.clone()),
            (Change::Delete, None) if damaged => (EventKind::Delete, Bytes::new()),
            (Change::Delete, None) => continue,
        };
        let previous = now.map(|version| (version.revision, version.value));
        events.push(Event { kind, key: write.key.as_str().into(), value, revision, previous });
    }
    Ok(events)
}

impl Stage {
    /// A deletion of what is gone already: the staged deletion is kept at least like this one.
    pub(crate) fn confirm(&mut self, key: &str, floor: Durability) {
        if let Some(pending) = self.pending.get_mut(key) {
            pending.floor = pending.floor.max(floor);
        }
    }

    /// Takes a batch's events in.
    pub(crate) fn accept(&mut self, events: Vec<Event>, floor: Durability) {
        for event in events {
            let deferred = (floor == Durability::Deferred).then_some(event.revision);
            let pending = Pending { version: event.after(), floor, deferred };
            self.pending
                .entry(event.key.clone())
                .and_modify(|earlier| {
                    earlier.version = pending.version.clone();
                    earlier.floor = earlier.floor.max(floor);
                    earlier.deferred = earlier.deferred.or(deferred);
                })
                .or_insert(pending);
            self.events.push(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: u64) -> Result<Current, WriteError> {
        Ok(Current::Version(Version { revision: Revision(revision), value: Bytes::from_static(b"old") }))
    }

    #[test]
    fn preconditions_are_all_or_nothing() {
        use Precondition::{Absent, Any, At, Present};
        let holds = |precondition, exists: bool| {
            let batch = [Write::put("r/x", Any, "v"), Write::put("r/k", precondition, "v")];
            let current = |key: &str| if key == "r/k" && exists { at(5) } else { Ok(Current::Absent) };
            evaluate(&batch, Revision(9), current).is_ok()
        };
        assert!(holds(Any, true) && holds(Any, false));
        assert!(!holds(Absent, true) && holds(Absent, false));
        assert!(holds(Present, true) && !holds(Present, false));
        assert!(holds(At(Revision(5)), true));
        assert!(!holds(At(Revision(4)), true) && !holds(At(Revision(5)), false));
    }

    #[test]
    fn a_damaged_record_can_only_be_replaced_blindly() {
        let damaged = |_: &str| Ok(Current::Damaged);
        let blind = evaluate(&[Write::put("r/k", Precondition::Any, "v")], Revision(9), damaged);
        assert_eq!(blind.unwrap()[0].previous, None);
        let gone = evaluate(&[Write::delete("r/k", Precondition::Any)], Revision(9), damaged);
        assert_eq!(gone.unwrap()[0].kind, EventKind::Delete);
        let careful = evaluate(&[Write::put("r/k", Precondition::Present, "v")], Revision(9), damaged);
        assert!(matches!(careful, Err(WriteError::Corrupt { .. })));
    }

    #[test]
    fn a_stage_keeps_the_newest_version_and_the_strongest_promise() {
        let mut stage = Stage::default();
        for (revision, floor) in [(6, Durability::Deferred), (7, Durability::Durable), (8, Durability::Volatile)] {
            let batch = [Write::put("r/k", Precondition::Any, revision.to_string())];
            stage.accept(evaluate(&batch, Revision(revision), |_| at(5)).unwrap(), floor);
        }
        let pending = &stage.pending["r/k"];
        assert_eq!(pending.version.as_ref().unwrap().revision, Revision(8));
        assert_eq!((pending.floor, pending.deferred), (Durability::Durable, Some(Revision(6))));
        assert_eq!(stage.events.len(), 3);
    }
}
