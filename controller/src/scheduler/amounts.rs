//! Pure: amounts of resources: what a pod requests (init containers, sidecars, overhead) and what a node offers.

use serde_json::Value;

use crate::controllers::text::{Interner, Str, at, list_at, str_at};
use crate::schema::quantity::Quantity;

/// Counted for a container that requests no cpu when nodes are ranked (upstream's DefaultMilliCPURequest).
const DEFAULT_CPU: i64 = 100;
/// Counted for a container that requests no memory when nodes are ranked (upstream's DefaultMemoryRequest).
const DEFAULT_MEMORY: i64 = 200 << 20;

/// Amounts: cpu in thousandths, the rest in its own unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Amounts {
    pub(crate) cpu: i64,
    pub(crate) memory: i64,
    pub(crate) storage: i64,
    pub(crate) pods: i64,
    /// Extended resources by name, sorted.
    pub(crate) others: Vec<(Str, i64)>,
}

impl Amounts {
    /// A resource list.
    pub(crate) fn read(list: Option<&Value>, interner: &mut Interner) -> Amounts {
        let mut amounts = Amounts::default();
        for (name, value) in list.and_then(Value::as_object).into_iter().flatten() {
            let Ok(quantity) = Quantity::from_value(value) else { continue };
            let whole = quantity.value();
            match name.as_str() {
                "cpu" => amounts.cpu = quantity.millis(),
                "memory" => amounts.memory = whole,
                "ephemeral-storage" => amounts.storage = whole,
                "pods" => amounts.pods = whole,
                _ => amounts.others.push((interner.text(name), whole)),
            }
        }
        amounts.others.sort();
        amounts
    }

    /// Adds (`sign` 1) or takes away (-1).
    pub(crate) fn add(&mut self, other: &Amounts, sign: i64) {
        self.cpu += sign * other.cpu;
        self.memory += sign * other.memory;
        self.storage += sign * other.storage;
        self.pods += sign * other.pods;
        for (name, amount) in &other.others {
            match self.others.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known += sign * amount,
                None => self.others.push((name.clone(), sign * amount)),
            }
        }
    }

    /// The larger of each.
    fn raise(&mut self, other: &Amounts) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.storage = self.storage.max(other.storage);
        for (name, amount) in &other.others {
            match self.others.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = (*known).max(*amount),
                None => self.others.push((name.clone(), *amount)),
            }
        }
    }

    pub(crate) fn other(&self, name: &str) -> i64 {
        self.others.iter().find(|(known, _)| &**known == name).map_or(0, |(_, amount)| *amount)
    }
}

/// What a pod requests: the sum over containers and sidecars, or what its init containers need with the sidecars that run
/// by then, whichever is more (KEP-753); plus overhead. Then the same with defaults, as (cpu, memory).
pub(crate) fn pod_amounts(pod: &Value, interner: &mut Interner) -> (Amounts, (i64, i64)) {
    let mut requests = total(pod, interner, &|_| {});
    let estimate = total(pod, interner, &|amounts| {
        amounts.cpu = if amounts.cpu == 0 { DEFAULT_CPU } else { amounts.cpu };
        amounts.memory = if amounts.memory == 0 { DEFAULT_MEMORY } else { amounts.memory };
    });
    requests.pods = 1;
    (requests, (estimate.cpu, estimate.memory))
}

fn total(pod: &Value, interner: &mut Interner, adjust: &dyn Fn(&mut Amounts)) -> Amounts {
    let mut request = |container: &Value| {
        let mut amounts = Amounts::read(at(container, &["resources", "requests"]), interner);
        adjust(&mut amounts);
        amounts
    };
    let mut sum = Amounts::default();
    list_at(pod, &["spec", "containers"]).iter().for_each(|container| sum.add(&request(container), 1));
    let (mut sidecars, mut peak) = (Amounts::default(), Amounts::default());
    for container in list_at(pod, &["spec", "initContainers"]) {
        let mut amounts = request(container);
        if str_at(container, &["restartPolicy"]) == "Always" {
            sum.add(&amounts, 1);
            sidecars.add(&amounts, 1);
            peak.raise(&sidecars);
        } else {
            amounts.add(&sidecars, 1);
            peak.raise(&amounts);
        }
    }
    sum.raise(&peak);
    // Pod-level requests, where given, stand for the whole pod (KEP-2837).
    let of_pod = Amounts::read(at(pod, &["spec", "resources", "requests"]), interner);
    for (own, given) in [(&mut sum.cpu, of_pod.cpu), (&mut sum.memory, of_pod.memory)] {
        *own = if given > 0 { given } else { *own };
    }
    sum.add(&Amounts::read(at(pod, &["spec", "overhead"]), interner), 1);
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cpu(spec: Value) -> i64 {
        pod_amounts(&json!({ "spec": spec }), &mut Interner::default()).0.cpu
    }

    fn container(cpu: &str) -> Value {
        json!({ "resources": { "requests": { "cpu": cpu, "memory": "1Mi" } } })
    }

    fn sidecar(cpu: &str) -> Value {
        json!({ "restartPolicy": "Always", "resources": { "requests": { "cpu": cpu } } })
    }

    #[test]
    fn containers_add_up_and_init_containers_peak() {
        assert_eq!(cpu(json!({ "containers": [container("100m"), container("0.2")] })), 300);
        assert_eq!(cpu(json!({ "containers": [container("100m")], "initContainers": [container("1")] })), 1000);
        assert_eq!(cpu(json!({ "containers": [container("1")], "overhead": { "cpu": "250m" } })), 1250);
    }

    #[test]
    fn sidecars_count_beside_containers_and_beside_later_init_containers() {
        assert_eq!(cpu(json!({ "containers": [container("100m")], "initContainers": [sidecar("200m")] })), 300);
        let order =
            json!({ "containers": [container("100m")], "initContainers": [sidecar("200m"), container("500m")] });
        assert_eq!(cpu(order), 700);
        let order =
            json!({ "containers": [container("100m")], "initContainers": [container("500m"), sidecar("200m")] });
        assert_eq!(cpu(order), 500);
    }

    #[test]
    fn a_pod_that_asks_for_nothing_still_counts_in_the_ranking() {
        let (requests, estimate) = pod_amounts(&json!({ "spec": { "containers": [{}] } }), &mut Interner::default());
        assert_eq!((requests.cpu, requests.pods), (0, 1));
        assert_eq!(estimate, (DEFAULT_CPU, DEFAULT_MEMORY));
    }
}
