//! Pure: a pod as servers on this board see it.

use bramble_runtime::ContainerState;

use super::super::board::Board;
use super::super::config::log_dir;
use super::super::spec::Pod;
use super::super::state::{Instance, Observed};
use super::super::{ContainerEntry, ContainerInstance, InstanceState, PodEntry};
use crate::link::Object;

pub(super) fn entry(pod: &Pod, object: &Object, status: &Object, observed: &Observed, board: &Board) -> PodEntry {
    let sandbox = observed.sandbox.as_ref();
    let statuses = |name: &str| {
        let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
        let found =
            lists.iter().find_map(|list| pod.status[*list].as_array()?.iter().find(|status| status["name"] == name));
        found.and_then(|status| status["state"]["waiting"]["reason"].as_str()).map(str::to_owned)
    };
    let containers = pod.all_containers().map(|(kind, container)| ContainerEntry {
        name: container.name.clone(),
        kind,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        current: observed.newest(&container.name).map(instance),
        previous: observed.previous(&container.name).map(instance),
        waiting_reason: statuses(&container.name),
    });
    PodEntry {
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        sandbox_id: sandbox.map(|sandbox| sandbox.id.clone()),
        netns_path: sandbox.and_then(|sandbox| sandbox.netns_path.clone()),
        host_network: pod.spec.host_network,
        ips: if pod.spec.host_network { board.host_ips.clone() } else { observed.ips.clone() },
        log_dir: log_dir(&board.log_root, pod),
        containers: containers.collect(),
        object: Some(object.clone()),
        status: Some(status.clone()),
    }
}

fn instance(instance: &Instance) -> ContainerInstance {
    let status = &instance.status;
    ContainerInstance {
        id: status.id.clone(),
        attempt: status.attempt,
        state: match status.state {
            ContainerState::Created => InstanceState::Created,
            ContainerState::Running => InstanceState::Running,
            ContainerState::Exited => InstanceState::Exited(status.exit_code.unwrap_or(137)),
            ContainerState::Unknown => InstanceState::Unknown,
        },
        log_path: status.log_path.clone(),
    }
}
