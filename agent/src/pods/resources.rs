//! Pure: requests and limits to cgroup values, quality of service, and the kernel's order of killing.

use std::collections::BTreeMap;

use bramble_runtime::Resources as Cgroup;
use serde_json::Value;

use super::quantity::{milli, units};
use super::spec::{Container, Pod, Resources};

/// Microseconds; upstream's `--cpu-cfs-quota-period`.
const CPU_PERIOD: u64 = 100_000;

/// Quality of service; decides the parent cgroup and who is killed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// As in `status.qosClass`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The pod's cgroup below the instance's root.
    pub(crate) fn cgroup(self, uid: &str) -> String {
        match self {
            Self::Guaranteed => format!("kubepods/pod{uid}"),
            Self::Burstable => format!("kubepods/burstable/pod{uid}"),
            Self::BestEffort => format!("kubepods/besteffort/pod{uid}"),
        }
    }
}

/// The class of a pod: that of its resources of cpu and memory.
pub(crate) fn qos(pod: &Pod) -> Qos {
    let containers: Vec<&Resources> = if pod.spec.resources == Resources::default() {
        pod.spec.init_containers.iter().chain(&pod.spec.containers).map(|container| &container.resources).collect()
    } else {
        vec![&pod.spec.resources]
    };
    let positive =
        |list: &BTreeMap<String, Value>, name: &str| list.get(name).and_then(milli).filter(|value| *value > 0);
    let mut any = false;
    let mut guaranteed = true;
    for resources in containers {
        for name in ["cpu", "memory"] {
            let (request, limit) = (positive(&resources.requests, name), positive(&resources.limits, name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// 1024 shares are one processor; the kernel's least is 2.
fn shares(milli_cpu: i128) -> u64 {
    u64::try_from(milli_cpu * 1024 / 1000).unwrap_or(2).clamp(2, 262_144)
}

fn quota(milli_cpu: i128) -> i64 {
    i64::try_from(milli_cpu * i128::from(CPU_PERIOD) / 1000).unwrap_or(i64::MAX).max(1000)
}

fn milli_of(list: &BTreeMap<String, Value>, name: &str) -> Option<i128> {
    list.get(name).and_then(milli)
}

fn bytes_of(list: &BTreeMap<String, Value>, name: &str) -> Option<i64> {
    list.get(name).and_then(units).filter(|bytes| *bytes > 0)
}

/// A container's cgroup.
pub(crate) fn container(pod: &Pod, container: &Container, node_memory_bytes: u64) -> Cgroup {
    let resources = &container.resources;
    let request = milli_of(&resources.requests, "cpu").or_else(|| milli_of(&resources.limits, "cpu"));
    let limit = milli_of(&resources.limits, "cpu").filter(|limit| *limit > 0);
    Cgroup {
        cpu_shares: Some(request.map_or(2, shares)),
        cpu_quota: limit.map(quota),
        cpu_period: limit.map(|_| CPU_PERIOD),
        memory_limit: bytes_of(&resources.limits, "memory"),
        oom_score_adj: Some(oom_score_adj(pod, container, node_memory_bytes)),
        ..Cgroup::default()
    }
}

/// The pod's cgroup: sums of its containers, at least what each init container needs.
pub(crate) fn pod(pod: &Pod) -> Cgroup {
    let main = || pod.spec.containers.iter().chain(pod.spec.init_containers.iter().filter(|one| one.is_sidecar()));
    let init = || pod.spec.init_containers.iter().filter(|one| !one.is_sidecar());
    let total = |of: &dyn Fn(&Container) -> Option<i128>| {
        let sum: i128 = main().filter_map(of).sum();
        let all = main().all(|one| of(one).is_some_and(|value| value > 0));
        (sum.max(init().filter_map(of).max().unwrap_or(0)), all)
    };
    let (request, _) = total(&|one: &Container| {
        milli_of(&one.resources.requests, "cpu").or_else(|| milli_of(&one.resources.limits, "cpu"))
    });
    let (cpu_limit, cpu_limited) = total(&|one: &Container| milli_of(&one.resources.limits, "cpu"));
    let (memory, memory_limited) = total(&|one: &Container| bytes_of(&one.resources.limits, "memory").map(i128::from));
    let own = &pod.spec.resources;
    let cpu_limit = milli_of(&own.limits, "cpu").or(cpu_limited.then_some(cpu_limit));
    let memory = bytes_of(&own.limits, "memory").or_else(|| i64::try_from(memory).ok().filter(|_| memory_limited));
    Cgroup {
        cpu_shares: Some(shares(milli_of(&own.requests, "cpu").unwrap_or(request))),
        cpu_quota: cpu_limit.map(quota),
        cpu_period: cpu_limit.map(|_| CPU_PERIOD),
        memory_limit: memory,
        ..Cgroup::default()
    }
}

/// Upstream's formula: the more memory is asked for, the later it is killed.
fn oom_score_adj(pod: &Pod, container: &Container, node_memory_bytes: u64) -> i32 {
    if pod.spec.priority.is_some_and(|priority| priority >= 2_000_000_000) {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = bytes_of(&container.resources.requests, "memory").unwrap_or(0);
            let capacity = i64::try_from(node_memory_bytes.max(1)).unwrap_or(i64::MAX);
            let adjust = 1000 - i128::from(request) * 1000 / i128::from(capacity);
            i32::try_from(adjust.clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod_with(resources: &Value) -> Pod {
        Pod::read(&json!({"spec": {"containers": [{"name": "c", "resources": resources}]}})).unwrap()
    }

    #[test]
    fn the_class_follows_requests_and_limits() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        for (resources, class) in [
            (json!({}), Qos::BestEffort),
            (json!({"requests": {"cpu": "100m"}}), Qos::Burstable),
            (full, Qos::Guaranteed),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), Qos::Burstable),
        ] {
            assert_eq!(qos(&pod_with(&resources)), class, "{resources}");
        }
    }

    #[test]
    fn values_of_cgroups_are_upstreams() {
        let pod = pod_with(
            &json!({"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": "500m", "memory": "1Gi"}}),
        );
        let cgroup = container(&pod, &pod.spec.containers[0], 1 << 30);
        assert_eq!(
            (cgroup.cpu_shares, cgroup.cpu_quota, cgroup.memory_limit),
            (Some(256), Some(50_000), Some(1 << 30))
        );
        assert_eq!(cgroup.oom_score_adj, Some(500));
        assert_eq!(super::pod(&pod).cpu_shares, Some(256));
        let best = pod_with(&json!({}));
        assert_eq!(container(&best, &best.spec.containers[0], 1).oom_score_adj, Some(1000));
        assert_eq!(super::pod(&best).memory_limit, None);
    }
}
