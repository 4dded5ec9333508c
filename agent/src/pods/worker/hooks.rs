//! Shell: postStart and preStop, beside the pod's task.

use std::sync::Arc;
use std::time::Duration;

use super::super::spec::{Container, Handler};
use super::super::state::{Hook, Observed};
use super::{Message, Worker};
use crate::probes::{Target, handle};

/// A postStart hook has no limit of its own upstream; a hung one ends with its container.
const POST_START_LIMIT: Duration = Duration::from_secs(3600);

impl Worker {
    fn target(&self, id: &str, container: &Container, observed: &Observed) -> Target {
        let host_ip = self.board.host_ips.first().copied();
        Target {
            runtime: Arc::clone(&self.board.runtime),
            container_id: id.to_owned(),
            container: Arc::new(container.clone()),
            ip: if self.pod.spec.host_network { host_ip } else { observed.ips.first().copied() },
        }
    }

    pub(super) fn begin_post_start(&mut self, id: String, container: &Container, observed: &Observed) {
        let Some(hook) = container.lifecycle.post_start.clone() else { return };
        self.memory.hooks.insert(id.clone(), Hook::Running);
        let target = self.target(&id, container, observed);
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let result = handle(&target, &hook, POST_START_LIMIT).await;
            Self::tell(&sender, Message::Begun { id, result }).await;
        });
    }

    pub(super) fn begin_pre_stop(
        &mut self,
        id: String,
        container: &Container,
        hook: Handler,
        grace_s: i64,
        observed: &Observed,
    ) {
        let target = self.target(&id, container, observed);
        let (sender, board, pod, name) =
            (self.sender.clone(), self.board.clone(), self.pod.clone(), container.name.clone());
        let limit = Duration::from_secs(u64::try_from(grace_s).unwrap_or(0));
        tokio::spawn(async move {
            let ended = tokio::time::timeout(limit, handle(&target, &hook, limit)).await;
            if let Ok(Err(message)) = ended {
                board.recorder.warning(
                    &pod,
                    Some(&name),
                    "FailedPreStopHook",
                    format!("PreStopHook failed: {message}"),
                );
            }
            Self::tell(&sender, Message::Stopped { id }).await;
        });
    }
}
