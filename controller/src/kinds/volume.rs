//! Pure: the rows of storage: PersistentVolume, PersistentVolumeClaim, StorageClass.

use serde_json::{Value, json};

use super::column::{age, age_of, name};
use super::strategy::{Strategy, immutable, keep_status};
use super::{Column, Kind, Subresource};
use crate::object::Object;
use crate::schema::field_error::{FieldError, Path};
use crate::schema::names;
use crate::schema::quantity::Quantity;
use crate::schema::selector::validate_label_selector;
use crate::schema::type_named;

/// The annotation that named a class before there was a field.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Annotations of the class that claims without one get.
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// The most parameters of a class.
const PARAMETERS_MAX: usize = 512;

const SPEC: Path<'static> = Path::new("spec");

pub(super) fn volume() -> Kind {
    Kind {
        short_names: vec!["pv".into()],
        namespaced: false,
        columns: vec![
            name(),
            Column::text("Capacity"),
            Column::text("Access Modes"),
            Column::text("Reclaim Policy"),
            Column::text("Status"),
            Column::text("Claim"),
            Column::text("StorageClass"),
            Column::text("VolumeAttributesClass"),
            Column::text("Reason"),
            age(),
            Column::text("VolumeMode").wide(),
        ],
        row: volume_row,
        subresources: vec![Subresource::Status],
        strategy: Strategy {
            prepare_create: |volume| volume.set(&["status"], json!({"phase": "Pending"})),
            prepare_update: keep_status,
            stamp: |new, old, now| {
                if new.text(&["status", "phase"]) != old.text(&["status", "phase"]) {
                    new.set(&["status", "lastPhaseTransitionTime"], now);
                }
            },
            validate: validate_volume,
            validate_update: validate_volume_update,
            ..Strategy::default()
        },
        ..Kind::new("", "v1", "PersistentVolume", "persistentvolumes")
    }
}

pub(super) fn claim() -> Kind {
    Kind {
        short_names: vec!["pvc".into()],
        columns: vec![
            name(),
            Column::text("Status"),
            Column::text("Volume"),
            Column::text("Capacity"),
            Column::text("Access Modes"),
            Column::text("StorageClass"),
            Column::text("VolumeAttributesClass"),
            age(),
            Column::text("VolumeMode").wide(),
        ],
        row: claim_row,
        subresources: vec![Subresource::Status],
        strategy: Strategy {
            prepare_create: |claim| claim.set(&["status"], json!({"phase": "Pending"})),
            prepare_update: keep_status,
            validate: validate_claim,
            validate_update: validate_claim_update,
            ..Strategy::default()
        },
        ..Kind::new("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
    }
}

pub(super) fn class() -> Kind {
    Kind {
        short_names: vec!["sc".into()],
        namespaced: false,
        columns: vec![
            name(),
            Column::text("Provisioner"),
            Column::text("ReclaimPolicy"),
            Column::text("VolumeBindingMode"),
            Column::of("AllowVolumeExpansion", "boolean"),
            age(),
        ],
        row: |class, now| {
            let default = DEFAULT_CLASS.iter().any(|key| class.annotation(key) == Some("true"));
            let name = if default { format!("{} (default)", class.name()) } else { class.name().to_owned() };
            vec![
                name.into(),
                class.text(&["provisioner"]).into(),
                class.text(&["reclaimPolicy"]).into(),
                class.text(&["volumeBindingMode"]).into(),
                class.flag(&["allowVolumeExpansion"]).into(),
                age_of(class, now),
            ]
        },
        strategy: Strategy {
            validate: validate_class,
            validate_update: |new, old| {
                let changed = |field: &&str| new.get(&[field]) != old.get(&[field]);
                let fixed = ["parameters", "provisioner", "reclaimPolicy"].into_iter().filter(changed);
                let forbidden = |field| FieldError::forbidden(field, format!("updates to {field} are forbidden."));
                fixed.map(forbidden).chain(immutable(new, old, &["volumeBindingMode"])).collect()
            },
            ..Strategy::default()
        },
        ..Kind::new("storage.k8s.io", "v1", "StorageClass", "storageclasses")
    }
}

fn phase(object: &Object) -> Value {
    if object.deletion_timestamp().is_some() { "Terminating".into() } else { object.text(&["status", "phase"]).into() }
}

fn class_of(object: &Object) -> &str {
    object.annotation(BETA_CLASS).unwrap_or_else(|| object.text(&["spec", "storageClassName"]))
}

fn or_unset(text: &str) -> Value {
    if text.is_empty() { "<unset>".into() } else { text.into() }
}

/// In upstream's letters and order.
fn modes(object: &Object, part: &str) -> String {
    let all = object.items(&[part, "accessModes"]);
    let letters =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let held = letters.into_iter().filter(|(mode, _)| all.iter().any(|known| known == mode));
    held.map(|(_, short)| short).collect::<Vec<_>>().join(",")
}

fn volume_row(volume: &Object, now: i64) -> Vec<Value> {
    let spec = |field: &str| volume.text(&["spec", field]);
    let claim = |field: &str| volume.text(&["spec", "claimRef", field]);
    let claimed = volume.map(&["spec", "claimRef"]).is_some();
    let claim = if claimed { format!("{}/{}", claim("namespace"), claim("name")) } else { String::new() };
    vec![
        volume.name().into(),
        volume.text(&["spec", "capacity", "storage"]).into(),
        modes(volume, "spec").into(),
        spec("persistentVolumeReclaimPolicy").into(),
        phase(volume),
        claim.into(),
        class_of(volume).into(),
        or_unset(spec("volumeAttributesClassName")),
        volume.text(&["status", "reason"]).into(),
        age_of(volume, now),
        or_unset(spec("volumeMode")),
    ]
}

fn claim_row(claim: &Object, now: i64) -> Vec<Value> {
    let spec = |field: &str| claim.text(&["spec", field]);
    let volume = spec("volumeName");
    let (capacity, held) = match volume {
        "" => ("", String::new()),
        _ => (claim.text(&["status", "capacity", "storage"]), modes(claim, "status")),
    };
    vec![
        claim.name().into(),
        phase(claim),
        volume.into(),
        capacity.into(),
        held.into(),
        class_of(claim).into(),
        or_unset(spec("volumeAttributesClassName")),
        age_of(claim, now),
        or_unset(spec("volumeMode")),
    ]
}

/// One pod alone, or by several: not both.
fn wrong_modes(object: &Object, why_empty: &str) -> Option<FieldError> {
    let (field, modes) = ("spec.accessModes", object.items(&["spec", "accessModes"]));
    if modes.is_empty() {
        return Some(FieldError::required(field, why_empty));
    }
    let alone = modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod");
    alone.then(|| FieldError::forbidden(field, "may not use ReadWriteOncePod with other access modes"))
}

fn not_positive(field: &str, amount: &Value) -> Option<FieldError> {
    let amount_is = Quantity::from_value(amount).is_ok_and(|it| !it.is_zero() && !it.is_negative());
    (!amount_is).then(|| FieldError::invalid(field, amount.clone(), "must be greater than zero"))
}

fn wrong_class_name(object: &Object) -> impl Iterator<Item = FieldError> {
    let name = object.text(&["spec", "storageClassName"]).to_owned();
    let wrong = if name.is_empty() { Vec::new() } else { names::dns1123_subdomain_errors(&name) };
    wrong.into_iter().map(move |why| FieldError::invalid("spec.storageClassName", name.as_str(), why))
}

/// The fields of a spec that say what the volume is made of.
fn sources(volume: &Object) -> Vec<(&'static str, &Value)> {
    let known = type_named("core.v1.PersistentVolumeSource").map(|kind| kind.json_fields()).unwrap_or_default();
    let held = |name| volume.get(&["spec", name]).filter(|source| !source.is_null());
    known.iter().filter_map(|field| Some((field.name(), held(field.name())?))).collect()
}

fn validate_volume(volume: &Object) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> = wrong_modes(volume, "").into_iter().collect();
    match volume.map(&["spec", "capacity"]).filter(|capacity| !capacity.is_empty()) {
        None => errors.push(FieldError::required("spec.capacity", "")),
        Some(capacity) => {
            if capacity.len() > 1 || !capacity.contains_key("storage") {
                let held = Value::Object(capacity.clone());
                errors.push(FieldError::not_supported("spec.capacity", held, &["storage"]));
            }
            let each = capacity.iter();
            errors.extend(each.filter_map(|(name, amount)| not_positive(&format!("spec.capacity[{name}]"), amount)));
        }
    }
    match sources(volume).as_slice() {
        [] => errors.push(FieldError::required(SPEC, "must specify a volume type")),
        [(kind, source)] => validate_source(volume, kind, source, &mut errors),
        [_, more @ ..] => errors.extend(
            more.iter()
                .map(|(kind, _)| FieldError::forbidden(SPEC.child(kind), "may not specify more than 1 volume type")),
        ),
    }
    errors.extend(wrong_class_name(volume));
    errors.extend(wrong_affinity(volume));
    errors
}

fn validate_source(volume: &Object, kind: &str, source: &Value, errors: &mut Vec<FieldError>) {
    if !matches!(kind, "hostPath" | "local") {
        return;
    }
    let path = source["path"].as_str().unwrap_or_default();
    let (here, field) = (SPEC.child(kind), "path");
    if path.is_empty() {
        errors.push(FieldError::required(here.child(field), ""));
    } else if path.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(here.child(field), path, "must not contain '..'"));
    }
    let recycled = volume.text(&["spec", "persistentVolumeReclaimPolicy"]) == "Recycle";
    if kind == "hostPath" && recycled && !path.is_empty() && path.bytes().all(|byte| byte == b'/') {
        let why = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden("spec.persistentVolumeReclaimPolicy", why));
    }
    if kind == "local" && volume.map(&["spec", "nodeAffinity"]).is_none() {
        errors.push(FieldError::required("metadata.annotations", "Local volume requires node affinity"));
    }
}

fn wrong_affinity(volume: &Object) -> Vec<FieldError> {
    let Some(affinity) = volume.map(&["spec", "nodeAffinity"]) else { return Vec::new() };
    let mut errors = Vec::new();
    if affinity.get("required").is_none_or(Value::is_null) {
        errors.push(FieldError::required("spec.nodeAffinity.required", "must specify required node constraints"));
    }
    let terms = volume.items(&["spec", "nodeAffinity", "required", "nodeSelectorTerms"]);
    for (at, term) in terms.iter().enumerate() {
        for (place, one) in term["matchExpressions"].as_array().into_iter().flatten().enumerate() {
            let valued = one["values"].as_array().is_some_and(|values| !values.is_empty());
            let field = format!("spec.nodeAffinity.required.nodeSelectorTerms[{at}].matchExpressions[{place}].values");
            match one["operator"].as_str().unwrap_or_default() {
                "In" | "NotIn" if !valued => {
                    let why = "must be specified when `operator` is 'In' or 'NotIn'";
                    errors.push(FieldError::required(field, why));
                }
                "Exists" | "DoesNotExist" if valued => {
                    let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    errors.push(FieldError::forbidden(field, why));
                }
                _ => {}
            }
        }
    }
    errors
}

fn validate_volume_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if sources(new) != sources(old) {
        let why = "spec.persistentvolumesource is immutable after creation";
        errors.push(FieldError::forbidden("spec.persistentvolumesource", why));
    }
    errors.extend(immutable(new, old, &["spec", "volumeMode"]));
    // Who had none may get one: the provider says where it lies.
    if old.map(&["spec", "nodeAffinity"]).is_some() {
        errors.extend(immutable(new, old, &["spec", "nodeAffinity"]));
    }
    errors
}

fn validate_claim(claim: &Object) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> = wrong_modes(claim, "at least 1 access mode is required").into_iter().collect();
    if let Some(selector) = claim.get(&["spec", "selector"]).filter(|selector| !selector.is_null()) {
        errors.extend(validate_label_selector(selector, SPEC.child("selector")));
    }
    match claim.get(&["spec", "resources", "requests", "storage"]) {
        None => errors.push(FieldError::required("spec.resources[storage]", "")),
        Some(amount) => errors.extend(not_positive("spec.resources[storage]", amount)),
    }
    errors.extend(wrong_class_name(claim));
    errors
}

const REQUEST: [&str; 4] = ["spec", "resources", "requests", "storage"];

fn validate_claim_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let (mut now, mut before) = (new.clone(), old.clone());
    // A binder names the volume, once, and a class that became the default may be taken over until then.
    let unbound = old.text(&["spec", "volumeName"]).is_empty();
    let free: [(&[&str], bool); 4] = [
        (&["spec", "volumeName"], unbound),
        (&["spec", "storageClassName"], unbound && old.get(&["spec", "storageClassName"]).is_none()),
        (&["spec", "volumeAttributesClassName"], true),
        (&REQUEST, old.text(&["status", "phase"]) == "Bound"),
    ];
    for (path, _) in free.into_iter().filter(|(_, free)| *free) {
        now.remove(path);
        before.remove(path);
    }
    let mut errors = Vec::new();
    if now.get(&["spec"]) != before.get(&["spec"]) {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
                   claims";
        errors.push(FieldError::forbidden(SPEC, why));
    }
    let amount = |object: &Object, path: &[&str]| object.get(path).and_then(|it| Quantity::from_value(it).ok());
    let capacity = amount(old, &["status", "capacity", "storage"]);
    let shrunk = amount(new, &REQUEST).zip(amount(old, &REQUEST)).is_some_and(|(now, before)| now < before);
    if shrunk && amount(new, &REQUEST).zip(capacity).is_some_and(|(now, held)| now < held) {
        let why = "field can not be less than status.capacity";
        errors.push(FieldError::forbidden(REQUEST.join("."), why));
    }
    errors
}

fn validate_class(class: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let provisioner = class.text(&["provisioner"]).to_lowercase();
    if !provisioner.is_empty() {
        let wrong = names::qualified_name_errors(&provisioner).into_iter();
        errors.extend(wrong.map(|why| FieldError::invalid("provisioner", class.text(&["provisioner"]), why)));
    }
    let parameters = class.map(&["parameters"]).into_iter().flatten();
    if parameters.clone().count() > PARAMETERS_MAX {
        errors.push(FieldError::too_long("Provisioner Parameters Length", PARAMETERS_MAX));
    }
    let empty = parameters.filter(|(key, _)| key.is_empty());
    errors.extend(empty.map(|_| FieldError::invalid("parameters", "", "field can not be empty.")));
    let policy = class.text(&["reclaimPolicy"]);
    if policy == "Recycle" {
        errors.push(FieldError::not_supported("reclaimPolicy", policy, &["Delete", "Retain"]));
    }
    errors
}

#[cfg(test)]
mod tests;
