use super::*;
use crate::kinds::Kinds;

fn of(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

fn volume_with(spec: Value) -> Object {
    let mut whole = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "card",
        "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    of(json!({"metadata": {"name": "v"}, "spec": whole, "status": {"phase": "Pending"}}))
}

fn claim_with(spec: Value) -> Object {
    let mut whole = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    of(json!({"metadata": {"name": "c"}, "spec": whole, "status": {"phase": "Pending"}}))
}

fn said(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn the_rows_are_served_with_their_schemas() {
    let kinds = Kinds::builtin();
    for (group, plural, short, status) in [
        ("", "persistentvolumes", "pv", true),
        ("", "persistentvolumeclaims", "pvc", true),
        ("storage.k8s.io", "storageclasses", "sc", false),
    ] {
        let kind = kinds.find(group, "v1", plural).unwrap();
        assert!(kind.schema.is_some() && kind.short_names == [short]);
        assert_eq!(kind.subresource("status").is_some(), status);
    }
}

#[test]
fn a_volume_is_made_of_one_thing_and_has_a_size() {
    let host = json!({"hostPath": {"path": "/srv", "type": ""}});
    assert_eq!(said(&validate_volume(&volume_with(host))), Vec::<String>::new());
    let terms = |one: Value| json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [one]}]}});
    let local = json!({"local": {"path": "/srv"},
        "nodeAffinity": terms(json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["pi-1"]}))});
    assert_eq!(said(&validate_volume(&volume_with(local))), Vec::<String>::new());
    for (spec, words) in [
        (json!({}), "spec: Required value: must specify a volume type"),
        (
            json!({"hostPath": {"path": "/a"}, "nfs": {"server": "a", "path": "/a"}}),
            "spec.nfs: Forbidden: may not specify more than 1 volume type",
        ),
        (
            json!({"hostPath": {"path": "/a/../b"}}),
            "spec.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (json!({"local": {"path": "/a"}}), "metadata.annotations: Required value: Local volume requires node affinity"),
        (
            json!({"hostPath": {"path": "/"}, "persistentVolumeReclaimPolicy": "Recycle"}),
            "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
        ),
        (json!({"hostPath": {"path": "/a"}, "accessModes": []}), "spec.accessModes: Required value"),
        (
            json!({"hostPath": {"path": "/a"}, "accessModes": ["ReadWriteOnce", "ReadWriteOncePod"]}),
            "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
        ),
        (json!({"hostPath": {"path": "/a"}, "capacity": {}}), "spec.capacity: Required value"),
        (
            json!({"hostPath": {"path": "/a"}, "capacity": {"storage": "0"}}),
            "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
        ),
        (
            json!({"hostPath": {"path": "/a"}, "nodeAffinity": {}}),
            "spec.nodeAffinity.required: Required value: must specify required node constraints",
        ),
        (
            json!({"hostPath": {"path": "/a"}, "nodeAffinity": terms(json!({"key": "a", "operator": "In"}))}),
            "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be \
             specified when `operator` is 'In' or 'NotIn'",
        ),
    ] {
        assert_eq!(said(&validate_volume(&volume_with(spec))), [words]);
    }
}

#[test]
fn what_a_volume_is_stays_and_a_place_may_be_told_once() {
    let host = |more: Value| {
        let mut spec = json!({"hostPath": {"path": "/srv"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        volume_with(spec)
    };
    let place = |zone: &str| {
        json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}]}]}}})
    };
    assert_eq!(said(&validate_volume_update(&host(place("a")), &host(json!({})))), Vec::<String>::new());
    let moved = said(&validate_volume_update(&host(place("b")), &host(place("a"))));
    assert!(moved.len() == 1 && moved[0].ends_with("field is immutable"), "{moved:?}");
    let other = volume_with(json!({"hostPath": {"path": "/other"}, "volumeMode": "Block"}));
    let changed = said(&validate_volume_update(&other, &host(json!({}))));
    assert!(changed[0].contains("immutable after creation") && changed[1].contains("spec.volumeMode"), "{changed:?}");
}

#[test]
fn a_claim_is_bound_once_and_grows_when_it_is() {
    assert_eq!(said(&validate_claim(&claim_with(json!({})))), Vec::<String>::new());
    let wrong = claim_with(json!({"accessModes": [], "resources": {}, "storageClassName": "A b"}));
    let told = said(&validate_claim(&wrong));
    assert_eq!(told[0], "spec.accessModes: Required value: at least 1 access mode is required");
    assert_eq!(told[1], "spec.resources[storage]: Required value");
    assert!(told[2].starts_with("spec.storageClassName: Invalid value"), "{told:?}");

    let (free, bound) = (claim_with(json!({})), claim_with(json!({"volumeName": "v", "storageClassName": "card"})));
    assert_eq!(said(&validate_claim_update(&bound, &free)), Vec::<String>::new());
    let other = claim_with(json!({"volumeName": "w", "storageClassName": "card"}));
    assert!(said(&validate_claim_update(&other, &bound))[0].starts_with("spec: Forbidden: spec is immutable"));
    let sized = |phase: &str, size: &str| {
        let mut claim = claim_with(json!({"volumeName": "v", "resources": {"requests": {"storage": size}}}));
        claim.set(&["status"], json!({"phase": phase, "capacity": {"storage": "2Gi"}}));
        claim
    };
    let update = |phase, size| said(&validate_claim_update(&sized(phase, size), &sized(phase, "2Gi")));
    assert_eq!(update("Bound", "3Gi"), Vec::<String>::new());
    assert_eq!(
        update("Bound", "1Gi"),
        ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
    );
    assert!(update("Pending", "3Gi")[0].starts_with("spec: Forbidden"));
}

#[test]
fn a_class_does_not_change_what_it_makes() {
    let class = |provisioner: &str, mode: &str| of(json!({"provisioner": provisioner, "volumeBindingMode": mode}));
    let kind = super::class();
    let update = |new: &Object, old: &Object| said(&(kind.strategy.validate_update)(new, old));
    let one = class("example.com/card", "Immediate");
    assert_eq!(update(&one, &one), Vec::<String>::new());
    assert_eq!(
        update(&class("other", "WaitForFirstConsumer"), &one),
        [
            "provisioner: Forbidden: updates to provisioner are forbidden.",
            "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
        ]
    );
    let wrong = of(json!({"provisioner": "a/b/c", "reclaimPolicy": "Recycle"}));
    let told = said(&validate_class(&wrong));
    assert!(told[0].starts_with("provisioner: Invalid value") && told[1].starts_with("reclaimPolicy: Unsupported"));
}

#[test]
fn rows_print_as_upstream_prints_them() {
    let mut volume = volume_with(json!({"accessModes": ["ReadOnlyMany", "ReadWriteOnce"],
        "claimRef": {"namespace": "shop", "name": "data"}}));
    let cells = volume_row(&volume, 0);
    let texts: Vec<&str> = cells.iter().map(|cell| cell.as_str().unwrap()).collect();
    assert_eq!(
        texts,
        ["v", "1Gi", "RWO,ROX", "Retain", "Pending", "shop/data", "card", "<unset>", "", "<unknown>", "Filesystem"]
    );
    volume.set(&["metadata", "deletionTimestamp"], "1970-01-01T00:00:00Z");
    assert_eq!(volume_row(&volume, 0)[4], "Terminating");
    let mut claim = claim_with(json!({"volumeName": "v", "storageClassName": "card"}));
    claim.set(&["status"], json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}}));
    assert_eq!(claim_row(&claim, 0)[..6], ["c", "Bound", "v", "2Gi", "RWO", "card"].map(Value::from));
    assert_eq!(claim_row(&claim_with(json!({})), 0)[..6], ["c", "Pending", "", "", "", ""].map(Value::from));
    let class = of(json!({"metadata": {"name": "card", "annotations": {DEFAULT_CLASS[0]: "true"}}}));
    assert_eq!((super::class().row)(&class, 0)[0], "card (default)");
}
