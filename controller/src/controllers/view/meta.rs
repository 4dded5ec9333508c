//! Pure: what every projection keeps of an object's metadata, and status conditions.

use serde_json::{Value, json};

use crate::controllers::text::{Interner, Labels, Str, flag_at, int_at, list_at, str_at};
use crate::controllers::time;

/// A UUID in 16 bytes; a uid in any other form is hashed into them.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Uid(u128);

impl Uid {
    /// Nobody's.
    pub(crate) const NONE: Uid = Uid(0);

    pub(crate) fn parse(text: &str) -> Uid {
        let hex: String = text.chars().filter(|&c| c != '-').collect();
        match u128::from_str_radix(&hex, 16) {
            Ok(number) if text.len() == 36 => Uid(number),
            _ => Uid(text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash: u128, byte| {
                (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
            })),
        }
    }

    /// A number that is as good as drawn by lot, and always the same.
    pub(crate) fn lot(self) -> u64 {
        (self.0 ^ (self.0 >> 64)) as u64
    }
}

impl std::fmt::Display for Uid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            n >> 96,
            (n >> 80) & 0xffff,
            (n >> 64) & 0xffff,
            (n >> 48) & 0xffff,
            n & 0xffff_ffff_ffff
        )
    }
}

impl std::fmt::Debug for Uid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// The owner reference with `controller: true`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: Uid,
    pub(crate) kind: Str,
    pub(crate) name: Str,
}

/// Metadata of any object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) uid: Uid,
    pub(crate) revision: u64,
    pub(crate) generation: i64,
    /// Seconds since 1970.
    pub(crate) created: i64,
    /// Seconds since 1970 of the deletion timestamp.
    pub(crate) deleted: Option<i64>,
    pub(crate) controller: Option<Owner>,
    pub(crate) labels: Labels,
}

impl Meta {
    pub(crate) fn project(object: &Value, interner: &mut Interner) -> Meta {
        let metadata = &object["metadata"];
        let owner = list_at(metadata, &["ownerReferences"]).iter().find(|owner| flag_at(owner, &["controller"]));
        Meta {
            uid: Uid::parse(str_at(metadata, &["uid"])),
            revision: revision(object),
            generation: int_at(metadata, &["generation"]).unwrap_or_default(),
            created: time::parse(str_at(metadata, &["creationTimestamp"])).unwrap_or_default(),
            deleted: time::parse(str_at(metadata, &["deletionTimestamp"])),
            controller: owner.map(|owner| Owner {
                uid: Uid::parse(str_at(owner, &["uid"])),
                kind: interner.text(str_at(owner, &["kind"])),
                name: interner.text(str_at(owner, &["name"])),
            }),
            labels: interner.labels(metadata.get("labels")),
        }
    }
}

/// The resource version as a number (comparable since Kubernetes 1.35, KEP-5504); 0 when absent.
pub(crate) fn revision(object: &Value) -> u64 {
    str_at(object, &["metadata", "resourceVersion"]).parse().unwrap_or_default()
}

/// One status condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) kind: Str,
    pub(crate) status: Str,
    pub(crate) reason: Str,
    pub(crate) message: Str,
    /// Seconds since 1970; only Deployments write it.
    pub(crate) updated: Option<i64>,
    pub(crate) transitioned: Option<i64>,
}

impl Condition {
    pub(crate) fn new(kind: &str, status: &str, reason: &str, message: String, now: i64) -> Condition {
        Condition {
            kind: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            updated: None,
            transitioned: Some(now),
        }
    }

    /// The conditions under `status.conditions`.
    pub(crate) fn project_all(object: &Value, interner: &mut Interner) -> Vec<Condition> {
        let moment = |value: &Value, field| time::parse(str_at(value, &[field]));
        list_at(object, &["status", "conditions"])
            .iter()
            .map(|value| Condition {
                kind: interner.text(str_at(value, &["type"])),
                status: interner.text(str_at(value, &["status"])),
                reason: interner.text(str_at(value, &["reason"])),
                message: interner.text(str_at(value, &["message"])),
                updated: moment(value, "lastUpdateTime"),
                transitioned: moment(value, "lastTransitionTime"),
            })
            .collect()
    }

    pub(crate) fn to_value(&self) -> Value {
        let mut value = json!({ "type": &*self.kind, "status": &*self.status });
        let texts = [("reason", &self.reason), ("message", &self.message)];
        for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            value[field] = Value::from(&**text);
        }
        for (field, moment) in [("lastUpdateTime", self.updated), ("lastTransitionTime", self.transitioned)] {
            if let Some(moment) = moment {
                value[field] = Value::from(time::stamp(moment));
            }
        }
        value
    }
}

/// The condition of a type.
pub(crate) fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| &*condition.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_round_trip_and_foreign_ones_differ() {
        let text = "8a1f0f6e-0b1c-4b7e-9c1e-0123456789ab";
        assert_eq!(Uid::parse(text).to_string(), text);
        assert_ne!(Uid::parse("one"), Uid::parse("two"));
    }
}
