//! Pure: Events as upstream's recorder writes them: a repeated one raises the count of the first.

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};

use super::kind::Kinds;
use super::plan::Report;
use super::time::Now;
use super::view::Key;
use super::view::meta::Uid;

/// How many different Events are remembered for counting; the oldest is forgotten.
const REMEMBERED: usize = 512;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Sameness {
    uid: Uid,
    component: &'static str,
    reason: &'static str,
    message: String,
}

struct Known {
    name: String,
    count: u64,
}

/// Remembers which Events were written.
#[derive(Default)]
pub(crate) struct Recorder {
    known: HashMap<Sameness, Known>,
    order: VecDeque<Sameness>,
    ticket: u64,
}

/// What to send.
#[derive(Debug, PartialEq)]
pub(crate) enum Record {
    /// POST into the namespace.
    Create { namespace: String, body: Value },
    /// Merge-patch the named Event.
    Count { namespace: String, name: String, body: Value },
}

impl Recorder {
    pub(crate) fn record(&mut self, report: &Report, component: &'static str, kinds: &Kinds, now: Now) -> Record {
        let Report { regarding, reason, message, warning } = report;
        let same = Sameness { uid: regarding.uid, component, reason, message: message.clone() };
        let namespace = event_namespace(&regarding.key).to_owned();
        if let Some(known) = self.known.get_mut(&same) {
            known.count += 1;
            let body = json!({ "count": known.count, "lastTimestamp": now.stamp() });
            return Record::Count { namespace, name: known.name.clone(), body };
        }
        self.ticket += 1;
        let name =
            format!("{}.{:016x}", regarding.key.name, (now.wall_ms as u64) * 1_000_000 + self.ticket % 1_000_000);
        self.order.push_back(same.clone());
        self.known.insert(same, Known { name: name.clone(), count: 1 });
        if self.order.len() > REMEMBERED {
            self.order.pop_front().map(|oldest| self.known.remove(&oldest));
        }
        let kind = kinds.get(regarding.key.kind);
        let mut object = json!({
            "kind": kind.kind, "apiVersion": kind.api_version(), "name": &*regarding.key.name,
            "uid": regarding.uid.to_string(),
        });
        if !regarding.key.namespace.is_empty() {
            object["namespace"] = Value::from(&*regarding.key.namespace);
        }
        let body = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": { "name": name, "namespace": namespace },
            "involvedObject": object,
            "reason": reason, "message": message, "type": if *warning { "Warning" } else { "Normal" },
            "source": { "component": component }, "reportingComponent": component, "reportingInstance": "",
            "firstTimestamp": now.stamp(), "lastTimestamp": now.stamp(), "count": 1, "eventTime": null,
        });
        Record::Create { namespace, body }
    }

    /// The Event was not there any more: the next one is new.
    pub(crate) fn forget(&mut self, name: &str) {
        self.known.retain(|_, known| known.name != name);
    }
}

/// Events about cluster-scoped objects stand in `default`.
fn event_namespace(key: &Key) -> &str {
    if key.namespace.is_empty() { "default" } else { &key.namespace }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::kind::KindId;
    use crate::controllers::plan::Regarding;

    #[test]
    fn the_second_time_counts() {
        let (mut recorder, kinds) = (Recorder::default(), Kinds::new());
        let regarding = Regarding { key: Key::new(KindId::DEPLOYMENTS, "shop", "web"), uid: Uid::parse("u") };
        let report = Report { regarding, warning: false, reason: "ScalingReplicaSet", message: "x".into() };
        let Record::Create { namespace, body } = recorder.record(&report, "c", &kinds, Now::default()) else {
            panic!()
        };
        assert_eq!((namespace.as_str(), body["involvedObject"]["apiVersion"].as_str()), ("shop", Some("apps/v1")));
        let Record::Count { name, body: count, .. } = recorder.record(&report, "c", &kinds, Now::default()) else {
            panic!()
        };
        assert_eq!((Value::from(name.as_str()), &count["count"]), (body["metadata"]["name"].clone(), &json!(2)));
        recorder.forget(&name);
        assert!(matches!(recorder.record(&report, "c", &kinds, Now::default()), Record::Create { .. }));
    }
}
