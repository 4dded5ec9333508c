//! Shell: update and patch: read, make the new object, check, write at the revision that was read.

use bramble_store::{Precondition, Revision, Write, WriteError};

use super::admission::Operation;
use super::create::{check_place, write_error};
use super::{Answer, ApiError, Applying, Call, Current, Patch, Registry, Target, Written, durability, record, shape};
use crate::kinds::strategy::{Part, validate_metadata, validate_metadata_update};
use crate::kinds::{Kind, Persistence, Subresource};
use crate::object::{Object, time};
use crate::schema::field_error::FieldError;

/// How often a patch, or an update without resourceVersion, is made again when somebody else was faster.
const ATTEMPTS: usize = 5;

impl Registry {
    /// Replaces an object, or a part of it.
    pub async fn update(&self, call: &mut Call, target: &Target, part: Part, body: Object) -> Answer<Written> {
        let mut body = body;
        check_place(target, &mut body)?;
        shape::complete(&target.kind, &mut body, call)?;
        let stored = self.kinds().stored(&target.kind);
        if let Some(alias) = target.kind.alias {
            (alias.store)(&mut body);
            body.set(&["apiVersion"], stored.api_version());
        }
        if body.resource_version().is_empty() && !stored.strategy.unconditional_update && part == Part::Whole {
            let why = FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
            return Err(ApiError::invalid(&stored, &target.name, &[why]));
        }
        let result = self.mutate(call, target, part, |_, _| Ok(body.clone())).await;
        match result {
            Err(error) if error.code == 404 && part == Part::Whole && stored.strategy.create_on_update => {
                if !body.resource_version().is_empty() {
                    return Err(error);
                }
                self.create(call, target, body).await
            }
            other => other,
        }
    }

    /// Patches an object, or a part of it. An apply patch creates what does not exist.
    pub async fn patch(&self, call: &mut Call, target: &Target, part: Part, patch: &Patch) -> Answer<Written> {
        let kind = target.kind.clone();
        let now = time::format(self.now());
        call.applies = matches!(patch, Patch::Apply(_));
        let result = self
            .mutate(call, target, part, |old, call| {
                let mut shown = old.clone();
                if let Some(alias) = kind.alias {
                    (alias.show)(&mut shown);
                    shown.set(&["apiVersion"], kind.api_version());
                }
                let mut new = patch.apply(&kind, Some(&shown), &Applying { call, part, now: &now })?;
                check_place(target, &mut new)?;
                if let Err(error) = shape::fit(&kind, &mut new, call) {
                    return Err(patch.misfit(&kind, &shown, &Applying { call, part, now: &now }, &error));
                }
                if let Some(alias) = kind.alias {
                    (alias.store)(&mut new);
                    new.set(&["apiVersion"], old.api_version());
                }
                Ok(new)
            })
            .await;
        match (result, patch) {
            (Err(error), Patch::Apply(_)) if error.code == 404 && part == Part::Whole => {
                let mut created = patch.apply(&kind, None, &Applying { call, part, now: &now })?;
                created.set(&["metadata", "name"], target.name.as_str());
                self.create(call, target, created).await
            }
            (result, _) => result,
        }
    }

    /// Reads, makes the new object by `make`, and writes it at the revision read. When somebody else was faster it is made
    /// again from what they wrote, unless it names the revision that it is for.
    pub(super) async fn mutate(
        &self,
        call: &mut Call,
        target: &Target,
        part: Part,
        make: impl Fn(&Object, &mut Call) -> Answer<Object>,
    ) -> Answer<Written> {
        let stored = self.kinds().stored(&target.kind);
        let target = Target { kind: stored, ..target.clone() };
        for _ in 0..ATTEMPTS {
            let warnings = call.warnings.len();
            let current = self.current(&target).await?;
            let new = make(&current.object, call)?;
            if let Some(written) = self.replace(call, &target, part, current, new).await? {
                return Ok(written);
            }
            call.warnings.truncate(warnings);
        }
        Err(ApiError::modified(&target.kind, &target.name))
    }

    /// One attempt; `None` when somebody else was faster.
    async fn replace(
        &self,
        call: &mut Call,
        target: &Target,
        part: Part,
        current: Current,
        mut new: Object,
    ) -> Answer<Option<Written>> {
        let (kind, old) = (&target.kind, &current.object);
        check_preconditions(kind, old, &new)?;
        let now = time::format(self.now());
        prepare(kind, part, &mut new, old);
        (kind.strategy.stamp)(&mut new, old, &now);
        self.admit(call, target, part, Operation::Update, &mut new, Some(old)).await?;
        // A pod's generation counts what its users ask for: its place is not of them.
        if part != Part::Binding {
            count_generation(kind, &mut new, old);
        }
        shape::track(kind, &mut new, old, call, part, &now);
        let errors = validate(kind, part, &new, old);
        if !errors.is_empty() {
            return Err(ApiError::invalid(kind, &target.name, &errors));
        }
        if part == Part::Whole {
            call.warnings.extend((kind.strategy.warnings)(&new));
        }
        let claims = self.claim(kind, &mut new, Some(old)).await?;
        let value = record::encode(&new);
        if value == current.value {
            return Ok(Some(Written { value, revision: current.revision.0, created: false }));
        }
        let finished = is_finished(kind, &new);
        if call.dry_run {
            return Ok(Some(Written { value, revision: current.revision.0, created: false }));
        }
        let key = target.key();
        let at = Precondition::At(current.revision);
        let mut batch = claims.writes;
        let floor = if finished {
            batch.extend(self.release(kind, &new));
            batch.insert(0, Write::delete(key.clone(), at));
            durability::of_delete(kind)
        } else {
            batch.insert(0, Write::put(key.clone(), at, value.clone()));
            durability::of_update(kind, part, &call.identity, &new, old)
        };
        match self.write(batch, floor).await {
            Ok(Revision(revision)) => {
                if matches!(kind.persistence, Persistence::Volatile) && !finished {
                    self.events.remember(key, Revision(revision), self.now());
                }
                Ok(Some(Written { value, revision, created: false }))
            }
            Err(WriteError::Conflict { key: lost, current }) if lost == key => match current {
                Some(_) => Ok(None),
                None => Err(ApiError::not_found(kind, &target.name)),
            },
            Err(WriteError::Conflict { key: taken, .. }) => {
                claims.explicit.into_iter().find(|(claimed, _)| *claimed == taken).map_or(Ok(None), |(_, why)| Err(why))
            }
            Err(other) => Err(write_error(other)),
        }
    }
}

/// The revision and the uid that the client names, when it names them.
fn check_preconditions(kind: &Kind, old: &Object, new: &Object) -> Answer<()> {
    if !new.uid().is_empty() && new.uid() != old.uid() {
        let why = format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", new.uid(), old.uid());
        return Err(ApiError::conflict(kind, old.name(), &why));
    }
    if !new.resource_version().is_empty() && new.resource_version() != old.resource_version() {
        return Err(ApiError::modified(kind, old.name()));
    }
    Ok(())
}

/// What no client changes, and what this part's writer does not change.
fn prepare(kind: &Kind, part: Part, new: &mut Object, old: &Object) {
    new.remove(&["metadata", "selfLink"]);
    for field in
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "namespace"]
    {
        match old.get(&["metadata", field]) {
            Some(value) => new.set(&["metadata", field], value.clone()),
            None => drop(new.remove(&["metadata", field])),
        }
    }
    match part {
        Part::Whole => (kind.strategy.prepare_update)(new, old),
        Part::Status => (kind.strategy.prepare_status)(new, old),
        other => (kind.strategy.prepare_part)(other, new, old),
    }
}

/// The generation counts changes of everything but metadata and status.
fn count_generation(kind: &Kind, new: &mut Object, old: &Object) {
    if !kind.strategy.generation {
        return;
    }
    let desired = |object: &Object| {
        let fields = object.0.iter().filter(|(key, _)| !matches!(key.as_str(), "metadata" | "status"));
        fields.map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>()
    };
    if desired(new) != desired(old) {
        new.set(&["metadata", "generation"], old.generation() + 1);
    }
}

fn validate(kind: &Kind, part: Part, new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = validate_metadata_update(new, old);
    if part == Part::Whole {
        errors.extend(validate_metadata(new, kind.namespaced, |_| Vec::new()));
        errors.extend(shape::validate(kind, new));
        errors.extend((kind.strategy.validate)(new));
        errors.extend((kind.strategy.validate_update)(new, old));
    } else {
        errors.extend(shape::validate(kind, new));
        errors.extend(match part {
            Part::Status => (kind.strategy.validate_status)(new, old),
            other => (kind.strategy.validate_part)(other, new, old),
        });
    }
    errors
}

/// Nothing holds the object back any more from being gone.
pub(super) fn is_finished(kind: &Kind, object: &Object) -> bool {
    object.deletion_timestamp().is_some()
        && !is_held(kind, object)
        && object.integer(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or_default() == 0
}

/// Somebody has to finish something before the object may go.
pub(super) fn is_held(kind: &Kind, object: &Object) -> bool {
    let content =
        kind.subresources.contains(&Subresource::Finalize) && !object.items(&["spec", "finalizers"]).is_empty();
    content || object.finalizers().next().is_some()
}
