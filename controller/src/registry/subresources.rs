//! Shell: what POST and PUT below an object do: scale, binding; `eviction` is apart.

use serde_json::{Value, json};

use super::admission::{Attributes, Operation};
use super::{Answer, ApiError, Call, Part, Registry, Target, Written, record};
use crate::kinds::column;
use crate::object::{Object, time};
use crate::schema::field_error::FieldError;

/// A pod's binding to a node.
#[derive(Clone, Debug, Default)]
pub struct Binding {
    /// The node.
    pub node: String,
    /// Annotations that the pod gets with it.
    pub annotations: serde_json::Map<String, Value>,
    /// Only this very pod; empty for any.
    pub uid: String,
}

impl Registry {
    /// The Scale of an object.
    pub async fn scale(&self, target: &Target) -> Answer<Object> {
        let Written { value, revision, .. } = self.get(target, None).await?;
        Ok(scale_of(&record::decode(&value, revision).map_err(ApiError::internal)?))
    }

    /// Sets `spec.replicas` by a Scale, or by a patch of one.
    pub async fn rescale(
        &self,
        call: &mut Call,
        target: &Target,
        make: impl Fn(&Object, &Call) -> Answer<Object>,
    ) -> Answer<Object> {
        let written = self
            .mutate(call, target, Part::Scale, |old, call| {
                let scale = make(&scale_of(old), call)?;
                let replicas = scale.integer(&["spec", "replicas"]).unwrap_or_default();
                if replicas < 0 {
                    let why = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
                    let kind = crate::kinds::Kind::new("autoscaling", "v1", "Scale", "scales");
                    return Err(ApiError::invalid(&kind, old.name(), &[why]));
                }
                let mut new = old.clone();
                for field in ["resourceVersion", "uid"] {
                    match scale.text(&["metadata", field]) {
                        "" => drop(new.remove(&["metadata", field])),
                        given => new.set(&["metadata", field], given),
                    }
                }
                new.set(&["spec", "replicas"], replicas);
                Ok(new)
            })
            .await?;
        Ok(scale_of(&record::decode(&written.value, written.revision).map_err(ApiError::internal)?))
    }

    /// Binds a pod to a node, once and for all.
    pub async fn bind(&self, call: &mut Call, target: &Target, binding: &Binding) -> Answer<Written> {
        let now = time::format(self.now());
        self.mutate(call, target, Part::Binding, |pod, _| {
            let refuse = |why: String| Err(ApiError::conflict(&target.kind, pod.name(), &why));
            if !binding.uid.is_empty() && binding.uid != pod.uid() {
                let (asked, is) = (&binding.uid, pod.uid());
                return refuse(format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {is}"));
            }
            if pod.deletion_timestamp().is_some() {
                return refuse(format!("pod {} is being deleted, cannot be assigned to a host", pod.name()));
            }
            if !pod.text(&["spec", "nodeName"]).is_empty() {
                let node = pod.text(&["spec", "nodeName"]);
                return refuse(format!("pod {} is already assigned to node {node:?}", pod.name()));
            }
            if !pod.items(&["spec", "schedulingGates"]).is_empty() {
                return refuse(format!("pod {} has non-empty .spec.schedulingGates", pod.name()));
            }
            let mut new = pod.clone();
            new.set(&["spec", "nodeName"], binding.node.as_str());
            for (key, value) in &binding.annotations {
                new.set(&["metadata", "annotations", key], value.clone());
            }
            let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
                "lastTransitionTime": now});
            set_condition(&mut new, scheduled);
            Ok(new)
        })
        .await
    }

    /// May this user have a token of that account?
    pub async fn admit_token(&self, call: &Call, target: &Target, request: &Object) -> Answer<()> {
        let pod = request.text(&["spec", "boundObjectRef", "name"]);
        let pod = match request.text(&["spec", "boundObjectRef", "kind"]) {
            "Pod" => self.lookup("pods", &target.namespace, pod).await?,
            _ => None,
        };
        let attributes =
            Attributes { identity: &call.identity, target, part: Part::Whole, operation: Operation::Create };
        self.restrict(&attributes, "token", Some(request), None, pod.as_ref()).await
    }
}

/// Replaces the condition of the same type, or appends it.
fn set_condition(object: &mut Object, condition: Value) {
    let mut conditions = object.items(&["status", "conditions"]).to_vec();
    conditions.retain(|other| other["type"] != condition["type"]);
    conditions.push(condition);
    object.set(&["status", "conditions"], conditions);
}

/// autoscaling/v1 Scale of a workload.
fn scale_of(object: &Object) -> Object {
    let mut metadata = json!({"name": object.name(), "namespace": object.namespace(), "uid": object.uid(),
        "resourceVersion": object.resource_version(), "creationTimestamp": object.creation_timestamp()});
    if object.namespace().is_empty() {
        metadata.as_object_mut().and_then(|metadata| metadata.remove("namespace"));
    }
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata,
        "spec": {"replicas": object.integer(&["spec", "replicas"]).unwrap_or_default()},
        "status": {"replicas": object.integer(&["status", "replicas"]).unwrap_or_default(),
            "selector": column::selector_text(object.get(&["spec", "selector"]))}});
    Object::from_value(scale).expect("made a map just above")
}
