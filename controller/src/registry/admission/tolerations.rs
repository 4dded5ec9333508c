//! Pure: DefaultTolerationSeconds and TaintNodesByCondition: a pod outlives short absences of its node, and a new node is not
//! ready until it says so.

use serde_json::{Value, json};

use crate::object::Object;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// How long a pod stays bound to a node that is gone.
const SECONDS: i64 = 300;

/// Adds the tolerations that a pod does not have.
pub fn tolerate(pod: &mut Object) {
    let mut tolerations = pod.items(&["spec", "tolerations"]).to_vec();
    let before = tolerations.len();
    for key in [NOT_READY, UNREACHABLE] {
        let covers = |toleration: &Value| {
            let own = toleration["key"].as_str().unwrap_or_default();
            let effect = toleration["effect"].as_str().unwrap_or_default();
            (own == key || own.is_empty()) && ["", "NoExecute"].contains(&effect)
        };
        if !tolerations.iter().any(covers) {
            tolerations
                .push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
        }
    }
    if tolerations.len() > before {
        pod.set(&["spec", "tolerations"], tolerations);
    }
}

/// Taints a new node until its lifecycle controller has seen it ready.
pub fn taint(node: &mut Object) {
    let mut taints = node.items(&["spec", "taints"]).to_vec();
    if taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule") {
        return;
    }
    taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    node.set(&["spec", "taints"], taints);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_added_once() {
        let mut pod =
            Object::from_value(json!({"spec": {"tolerations": [{"key": NOT_READY, "effect": "NoExecute"}]}})).unwrap();
        tolerate(&mut pod);
        tolerate(&mut pod);
        assert_eq!(pod.items(&["spec", "tolerations"]).len(), 2);
        let mut all = Object::from_value(json!({"spec": {"tolerations": [{"operator": "Exists"}]}})).unwrap();
        tolerate(&mut all);
        assert_eq!(all.items(&["spec", "tolerations"]).len(), 1);
    }
}
