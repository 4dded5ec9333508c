//! Shell: delete: at once, with a grace period, or when the finalizers are through.

use std::sync::Arc;

use bramble_store::{Precondition, Revision, Write, WriteError};

use super::admission::Operation;
use super::create::write_error;
use super::update::is_held;
use super::{Answer, ApiError, Call, Current, ListRequest, Part, Registry, Target, Written, durability, record};
use crate::kinds::Kind;
use crate::object::{Object, time};

/// How often a deletion is tried again when somebody else writes the object meanwhile.
const ATTEMPTS: usize = 5;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// `DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub struct DeleteRequest {
    /// `gracePeriodSeconds`.
    pub grace_period_seconds: Option<i64>,
    /// `propagationPolicy`: `Orphan`, `Background`, `Foreground`; empty for the kind's default.
    pub propagation_policy: String,
    /// `preconditions.uid`.
    pub uid: String,
    /// `preconditions.resourceVersion`.
    pub resource_version: String,
}

/// What became of the object.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// It is gone; its last state.
    Gone(Written),
    /// It waits for its grace period or its finalizers.
    Waiting(Written),
}

impl Registry {
    /// Deletes one object.
    pub async fn delete(&self, call: &mut Call, target: &Target, request: &DeleteRequest) -> Answer<Deleted> {
        let target = Target { kind: self.kinds().stored(&target.kind), ..target.clone() };
        for _ in 0..ATTEMPTS {
            let current = self.current(&target).await?;
            check(&target.kind, &current.object, request)?;
            let mut object = current.object.clone();
            self.admit(call, &target, Part::Whole, Operation::Delete, &mut object, Some(&current.object)).await?;
            if let Some(deleted) = self.delete_once(call, &target, request, current).await? {
                return Ok(deleted);
            }
        }
        Err(ApiError::modified(&target.kind, &target.name))
    }

    /// Deletes what a list selects, each by itself.
    pub async fn delete_collection(
        self: &Arc<Self>,
        call: &mut Call,
        target: &Target,
        list: ListRequest,
        request: &DeleteRequest,
    ) -> Answer<()> {
        let mut lister = self.list(target, list).await?;
        while let Some(records) = lister.next().await? {
            for found in records {
                let object = record::decode(&found.value, found.revision.0).map_err(ApiError::internal)?;
                let one = Target {
                    namespace: object.namespace().to_owned(),
                    name: object.name().to_owned(),
                    ..target.clone()
                };
                match self.delete(call, &one, request).await {
                    Err(error) if error.code != 404 => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    async fn delete_once(
        &self,
        call: &Call,
        target: &Target,
        request: &DeleteRequest,
        current: Current,
    ) -> Answer<Option<Deleted>> {
        let Current { object, revision, value } = current;
        let kind = &target.kind;
        let marked = mark(kind, &object, request, self.now());
        let waits = match &marked {
            Some(marked) => is_held(kind, marked) || grace_of(marked).is_some_and(|grace| grace > 0),
            None => true,
        };
        let next = marked.as_ref().map_or(value.clone(), record::encode);
        let unchanged = Written { value: next.clone(), revision: revision.0, created: false };
        if waits && next == value || call.dry_run {
            return Ok(Some(if waits { Deleted::Waiting(unchanged) } else { Deleted::Gone(unchanged) }));
        }
        let (key, at) = (target.key(), Precondition::At(revision));
        let (batch, floor) = if waits {
            let new = marked.as_ref().unwrap_or(&object);
            (
                vec![Write::put(key, at, next.clone())],
                durability::of_update(kind, Part::Whole, &call.identity, new, &object),
            )
        } else {
            let mut batch = vec![Write::delete(key, at)];
            batch.extend(self.release(kind, &object));
            (batch, durability::of_delete(kind))
        };
        match self.write(batch, floor).await {
            Ok(Revision(revision)) => {
                let written = Written { value: next, revision, created: false };
                Ok(Some(if waits { Deleted::Waiting(written) } else { Deleted::Gone(written) }))
            }
            Err(WriteError::Conflict { current: None, .. }) => Err(ApiError::not_found(kind, &target.name)),
            Err(WriteError::Conflict { .. }) => Ok(None),
            Err(other) => Err(write_error(other)),
        }
    }
}

fn check(kind: &Kind, object: &Object, request: &DeleteRequest) -> Answer<()> {
    let wrong = |what: &str, asked: &str, is: &str| {
        let why = format!("Precondition failed: {what} in precondition: {asked}, {what} in object meta: {is}");
        Err(ApiError::conflict(kind, object.name(), &why))
    };
    if !request.uid.is_empty() && request.uid != object.uid() {
        return wrong("UID", &request.uid, object.uid());
    }
    if !request.resource_version.is_empty() && request.resource_version != object.resource_version() {
        return wrong("ResourceVersion", &request.resource_version, object.resource_version());
    }
    Ok(())
}

fn grace_of(object: &Object) -> Option<i64> {
    object.integer(&["metadata", "deletionGracePeriodSeconds"])
}

/// The object as it looks while its deletion waits; `None` when a graceful deletion already runs and this one does not
/// shorten it.
fn mark(kind: &Kind, object: &Object, request: &DeleteRequest, now: i64) -> Option<Object> {
    let mut marked = object.clone();
    set_finalizers(kind, &mut marked, request);
    if let Some(deadline) = object.deletion_timestamp() {
        let Some(pending) = grace_of(object).filter(|pending| kind.strategy.grace.is_some() && *pending > 0) else {
            return Some(marked);
        };
        let asked = request.grace_period_seconds.map(|asked| asked.max(0)).filter(|asked| *asked < pending)?;
        let began = time::parse(deadline).unwrap_or(now) - pending;
        marked.set(&["metadata", "deletionTimestamp"], time::format(began + asked));
        marked.set(&["metadata", "deletionGracePeriodSeconds"], asked);
        return Some(marked);
    }
    let grace = kind.strategy.grace.map_or(0, |grace| grace(object, request.grace_period_seconds));
    marked.set(&["metadata", "deletionTimestamp"], time::format(now + grace));
    marked.set(&["metadata", "deletionGracePeriodSeconds"], grace);
    if object.generation() > 0 {
        marked.set(&["metadata", "generation"], object.generation() + 1);
    }
    (kind.strategy.prepare_delete)(&mut marked);
    Some(marked)
}

/// The finalizers that make the garbage collector do as the propagation policy says.
fn set_finalizers(kind: &Kind, object: &mut Object, request: &DeleteRequest) {
    let has = |name: &str| object.finalizers().any(|own| own == name);
    let (orphan, foreground) = match request.propagation_policy.as_str() {
        "Orphan" => (true, false),
        "Foreground" => (false, true),
        "Background" => (false, false),
        _ if has(ORPHAN) => (true, false),
        _ if has(FOREGROUND) => (false, true),
        _ => (kind.strategy.orphans_by_default, false),
    };
    let own = object.finalizers().filter(|name| ![ORPHAN, FOREGROUND].contains(name));
    let policy = [(orphan, ORPHAN), (foreground, FOREGROUND)].into_iter().filter(|(wanted, _)| *wanted);
    let finalizers: Vec<String> = own.chain(policy.map(|(_, name)| name)).map(str::to_owned).collect();
    if finalizers.is_empty() {
        object.remove(&["metadata", "finalizers"]);
    } else {
        object.set(&["metadata", "finalizers"], finalizers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Strategy;
    use serde_json::json;

    fn pods() -> Kind {
        let grace: fn(&Object, Option<i64>) -> i64 = |_, asked| asked.unwrap_or(30);
        Kind { strategy: Strategy { grace: Some(grace), ..Strategy::default() }, ..Kind::new("", "v1", "Pod", "pods") }
    }

    #[test]
    fn a_running_grace_period_is_only_shortened() {
        let pod = Object::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        let first = mark(&pods(), &pod, &DeleteRequest::default(), 1000).unwrap();
        assert_eq!(first.deletion_timestamp(), Some("1970-01-01T00:17:10Z"));
        let longer = DeleteRequest { grace_period_seconds: Some(60), ..DeleteRequest::default() };
        assert_eq!(mark(&pods(), &first, &longer, 1001), None);
        let shorter = DeleteRequest { grace_period_seconds: Some(0), ..DeleteRequest::default() };
        let second = mark(&pods(), &first, &shorter, 1001).unwrap();
        assert_eq!(grace_of(&second), Some(0));
    }

    #[test]
    fn the_policy_becomes_a_finalizer() {
        let object = Object::from_value(json!({"metadata": {"finalizers": ["a/b", "orphan"]}})).unwrap();
        for (policy, expected) in [
            ("Foreground", vec!["a/b", "foregroundDeletion"]),
            ("Background", vec!["a/b"]),
            ("", vec!["a/b", "orphan"]),
        ] {
            let mut marked = object.clone();
            let request = DeleteRequest { propagation_policy: policy.to_owned(), ..DeleteRequest::default() };
            set_finalizers(&pods(), &mut marked, &request);
            assert_eq!(marked.finalizers().collect::<Vec<_>>(), expected, "{policy}");
        }
    }
}
