//! Pure: NamespaceLifecycle: nothing new in a namespace that does not exist or ends; the first namespaces stay.

use serde_json::json;

use super::{Attributes, Operation};
use crate::kinds::Kind;
use crate::object::Object;
use crate::registry::status::{Answer, ApiError};

/// Namespaces that may not be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Must the namespace be looked up?
pub fn needs_namespace(attributes: &Attributes<'_>) -> bool {
    attributes.operation == Operation::Create && attributes.target.kind.namespaced
}

/// Refuses a create in a namespace that is absent or ends.
pub fn judge(attributes: &Attributes<'_>, namespace: Option<&Object>) -> Answer<()> {
    let target = attributes.target;
    let Some(namespace) = namespace else {
        return Err(ApiError::not_found(&Kind::new("", "v1", "Namespace", "namespaces"), &target.namespace));
    };
    if namespace.deletion_timestamp().is_none() && namespace.text(&["status", "phase"]) != "Terminating" {
        return Ok(());
    }
    let ends = format!("namespace {} is being terminated", target.namespace);
    let why = format!("unable to create new content in namespace {} because it is being terminated", target.namespace);
    let mut error = ApiError::forbidden(&target.kind, &target.name, &why);
    let cause = json!([{"reason": "NamespaceTerminating", "message": ends, "field": "metadata.namespace"}]);
    error.details.insert("causes".to_owned(), cause);
    Err(error)
}

/// Refuses the deletion of the namespaces that every cluster has.
pub fn protect(attributes: &Attributes<'_>) -> Answer<()> {
    let target = attributes.target;
    let namespace = target.kind.group.is_empty() && target.kind.plural == "namespaces";
    if namespace && attributes.operation == Operation::Delete && IMMORTAL.contains(&target.name.as_str()) {
        return Err(ApiError::forbidden(&target.kind, &target.name, "this namespace may not be deleted"));
    }
    Ok(())
}
