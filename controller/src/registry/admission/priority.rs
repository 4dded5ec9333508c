//! Pure: Priority: from a class's name to a number.

use crate::object::Object;

/// The priority of a pod without a class.
const DEFAULT: i64 = 0;

/// Which class a pod names.
pub fn class_of(pod: &Object) -> Option<&str> {
    Some(pod.text(&["spec", "priorityClassName"])).filter(|name| !name.is_empty())
}

/// Is this the class of pods that name none?
pub fn is_default(class: &Object) -> bool {
    class.flag(&["globalDefault"])
}

/// Sets the priority that the class gives; `class` is the one named, or else the default one. The error is the reason behind
/// `is forbidden: `.
pub fn apply(pod: &mut Object, class: Option<&Object>) -> Result<(), String> {
    if let (Some(name), None) = (class_of(pod), class) {
        return Err(format!("no PriorityClass with name {name} was found"));
    }
    let priority = class.and_then(|class| class.integer(&["value"])).unwrap_or(DEFAULT);
    if let Some(given) = pod.integer(&["spec", "priority"]).filter(|given| *given != priority) {
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed \
             {priority} from the given PriorityClass name"
        ));
    }
    let policy = class.map(|class| class.text(&["preemptionPolicy"])).unwrap_or_default();
    let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
    let given = pod.text(&["spec", "preemptionPolicy"]);
    if !given.is_empty() && given != policy {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller \
             computed {policy} from the given PriorityClass name"
        ));
    }
    if let Some(class) = class {
        pod.set(&["spec", "priorityClassName"], class.name());
    }
    pod.set(&["spec", "priority"], priority);
    pod.set(&["spec", "preemptionPolicy"], policy);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_class_gives_its_number() {
        let class = Object::from_value(json!({"metadata": {"name": "high"}, "value": 9})).unwrap();
        let mut pod = Object::from_value(json!({"spec": {"priorityClassName": "high"}})).unwrap();
        apply(&mut pod, Some(&class)).unwrap();
        assert_eq!(pod.integer(&["spec", "priority"]), Some(9));
        let mut other = Object::from_value(json!({"spec": {"priorityClassName": "none"}})).unwrap();
        assert_eq!(apply(&mut other, None).unwrap_err(), "no PriorityClass with name none was found");
        let mut plain = Object::default();
        apply(&mut plain, None).unwrap();
        assert_eq!(plain.integer(&["spec", "priority"]), Some(0));
    }
}
