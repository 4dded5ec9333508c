//! Pure: what is peculiar to writing one kind; every function has a default that suits most kinds.

use serde_json::Value;

use crate::object::Object;
use crate::schema::field_error::{FieldError, Path};
use crate::schema::names;

/// Pure functions that the engine calls on the way of a write, and a few facts.
#[derive(Clone, Copy, Debug)]
pub struct Strategy {
    /// Before a create: drop what a client may not set (status), set what the server decides.
    pub prepare_create: fn(&mut Object),
    /// Before an update of the object itself; the default keeps the old status.
    pub prepare_update: fn(new: &mut Object, old: &Object),
    /// Before an update of the status; the default keeps everything else of the old object.
    pub prepare_status: fn(new: &mut Object, old: &Object),
    /// Before an update through another subresource than the status.
    pub prepare_part: fn(Part, new: &mut Object, old: &Object),
    /// After those, on every update: times that the server sets; `now` is RFC 3339.
    pub stamp: fn(new: &mut Object, old: &Object, now: &str),
    /// When a deletion begins that has to wait.
    pub prepare_delete: fn(&mut Object),
    /// What the schema cannot say about a whole object.
    pub validate: fn(&Object) -> Vec<FieldError>,
    /// What may not change.
    pub validate_update: fn(new: &Object, old: &Object) -> Vec<FieldError>,
    /// What may not change, or is wrong, in a status.
    pub validate_status: fn(new: &Object, old: &Object) -> Vec<FieldError>,
    /// What may not change, or is wrong, in a write through another subresource than the status.
    pub validate_part: fn(Part, new: &Object, old: &Object) -> Vec<FieldError>,
    /// Advice for the client.
    pub warnings: fn(&Object) -> Vec<String>,
    /// The rule of its names.
    pub name_errors: fn(&str) -> Vec<String>,
    /// Whether `metadata.generation` counts the changes of the spec.
    pub generation: bool,
    /// Whether `PUT` may create.
    pub create_on_update: bool,
    /// Whether an update needs a resourceVersion.
    pub unconditional_update: bool,
    /// Whether dependents are orphaned when a deletion does not say what to do.
    pub orphans_by_default: bool,
    /// Whether a deletion that is done at once answers with the object instead of a Status.
    pub returns_deleted: bool,
    /// The grace period of a deletion: seconds asked for to seconds given; `None` for kinds that are deleted at once.
    pub grace: Option<fn(&Object, asked: Option<i64>) -> i64>,
}

/// Which part of an object a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status.
    Whole,
    /// The status.
    Status,
    /// `spec.replicas`, through the scale subresource.
    Scale,
    /// A namespace's `spec.finalizers`.
    Finalize,
    /// A signing request's conditions Approved and Denied.
    Approval,
    /// A pod's node.
    Binding,
    /// A pod's ephemeral containers.
    EphemeralContainers,
    /// A pod's resources.
    Resize,
}

impl Part {
    /// The subresource's name; empty for the object itself.
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "",
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Finalize => "finalize",
            Self::Approval => "approval",
            Self::Binding => "binding",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
        }
    }
}

impl Default for Strategy {
    fn default() -> Self {
        Self {
            prepare_create: |_| {},
            prepare_update: |_, _| {},
            prepare_status: status_only,
            prepare_part: |_, _, _| {},
            stamp: |_, _, _| {},
            prepare_delete: |_| {},
            validate: |_| Vec::new(),
            validate_update: |_, _| Vec::new(),
            validate_status: |_, _| Vec::new(),
            validate_part: |_, _, _| Vec::new(),
            warnings: |_| Vec::new(),
            name_errors: names::dns1123_subdomain_errors,
            generation: false,
            create_on_update: false,
            unconditional_update: true,
            orphans_by_default: false,
            returns_deleted: false,
            grace: None,
        }
    }
}

/// Drops the status: it is the server's and the controllers' to write.
pub fn drop_status(object: &mut Object) {
    object.0.remove("status");
}

/// Keeps the old status: this write is for the rest.
pub fn keep_status(new: &mut Object, old: &Object) {
    keep(new, old, "status");
}

/// Keeps one top-level field of the old object.
pub fn keep(new: &mut Object, old: &Object, field: &str) {
    match old.0.get(field) {
        Some(value) => new.0.insert(field.to_owned(), value.clone()),
        None => new.0.remove(field),
    };
}

/// Keeps everything of the old object but the status, and of the metadata what a status writer may change.
pub fn status_only(new: &mut Object, old: &Object) {
    let status = new.0.remove("status");
    let mut metadata = new.0.remove("metadata").unwrap_or_default();
    new.0.clone_from(&old.0);
    if let Some(status) = status {
        new.0.insert("status".to_owned(), status);
    } else {
        new.0.remove("status");
    }
    for field in ["labels", "ownerReferences"] {
        match (old.get(&["metadata", field]), metadata.as_object_mut()) {
            (Some(value), Some(map)) => drop(map.insert(field.to_owned(), value.clone())),
            (None, Some(map)) => drop(map.remove(field)),
            _ => {}
        }
    }
    new.0.insert("metadata".to_owned(), metadata);
}

/// `field is immutable`, when the values at a path differ.
pub fn immutable(new: &Object, old: &Object, path: &[&str]) -> Option<FieldError> {
    let (now, before) = (new.get(path), old.get(path));
    let changed = now.unwrap_or(&Value::Null) != before.unwrap_or(&Value::Null);
    changed.then(|| FieldError::invalid(path.join("."), now.cloned().unwrap_or_default(), "field is immutable"))
}

/// The rules of metadata that all kinds share, for a new object. `namespaced` kinds need a namespace.
pub fn validate_metadata(object: &Object, namespaced: bool, name_errors: fn(&str) -> Vec<String>) -> Vec<FieldError> {
    const METADATA: Path<'static> = Path::new("metadata");
    let mut errors = Vec::new();
    if object.name().is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        let wrong = name_errors(object.name()).into_iter();
        errors.extend(wrong.map(|why| FieldError::invalid("metadata.name", object.name(), why)));
    }
    if namespaced {
        if object.namespace().is_empty() {
            errors.push(FieldError::required("metadata.namespace", ""));
        } else {
            let wrong = names::dns1123_label_errors(object.namespace()).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid("metadata.namespace", object.namespace(), why)));
        }
    } else if !object.namespace().is_empty() {
        errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
    }
    if let Some(labels) = object.get(&["metadata", "labels"]) {
        errors.extend(names::validate_labels(labels, METADATA.child("labels")));
    }
    if let Some(annotations) = object.get(&["metadata", "annotations"]) {
        errors.extend(names::validate_annotations(annotations, METADATA.child("annotations")));
    }
    errors.extend(validate_owners(object));
    for (at, finalizer) in object.finalizers().enumerate() {
        let field = format!("metadata.finalizers[{at}]");
        let wrong = names::qualified_name_errors(finalizer);
        let plain = !finalizer.contains('/') && !["orphan", "foregroundDeletion", "kubernetes"].contains(&finalizer);
        if plain && wrong.is_empty() {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid("metadata.finalizers", finalizer, why));
        }
        errors.extend(wrong.into_iter().map(|why| FieldError::invalid(&field, finalizer, why)));
    }
    errors
}

fn validate_owners(object: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controller = None;
    for (at, owner) in object.owner_references().enumerate() {
        let field = format!("metadata.ownerReferences[{at}]");
        for (name, value) in
            [("apiVersion", owner.api_version), ("kind", owner.kind), ("name", owner.name), ("uid", owner.uid)]
        {
            if value.is_empty() {
                let why = if name == "apiVersion" { "version must not be empty" } else { "must not be empty" };
                errors.push(FieldError::invalid(format!("{field}.{name}"), value, why));
            }
        }
        if owner.controller
            && let Some(first) = controller.replace(owner.name.to_owned())
        {
            let why = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                owner.name
            );
            let all = object.get(&["metadata", "ownerReferences"]).cloned().unwrap_or_default();
            errors.push(FieldError::invalid("metadata.ownerReferences", all, why));
        }
    }
    errors
}

/// The rules of metadata that all kinds share, for a changed object.
pub fn validate_metadata_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old.deletion_timestamp().is_some() {
        let added: Vec<&str> = new.finalizers().filter(|&now| old.finalizers().all(|before| before != now)).collect();
        if !added.is_empty() {
            let listed: Vec<String> = added.iter().map(|name| format!("{name:?}")).collect();
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                listed.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", why));
        }
    }
    errors.extend(immutable(new, old, &["metadata", "name"]));
    errors.extend(immutable(new, old, &["metadata", "namespace"]));
    errors.extend(immutable(new, old, &["metadata", "uid"]));
    errors.extend(immutable(new, old, &["metadata", "creationTimestamp"]));
    errors
}
