//! Shell: writes one component's Events, one after the other, best effort as upstream's recorder.

use std::time::Instant;

use tokio::sync::mpsc;

use super::event::{Record, Recorder};
use super::kind::{EVENTS, Kinds};
pub(crate) use super::plan::Regarding as About;
use super::plan::Report;
use super::time::Now;
use crate::client::{Client, PatchKind, Resource};

/// Events on the way to the server; more are dropped, as upstream's recorder does.
const DEPTH: usize = 256;

/// Takes Events; cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    reports: mpsc::Sender<Report>,
}

impl Events {
    /// Starts the writer, which ends with the last clone.
    pub(crate) fn start(client: Client, component: &'static str) -> Events {
        let (reports, queue) = mpsc::channel(DEPTH);
        tokio::spawn(write(client, component, queue));
        Events { reports }
    }

    pub(crate) fn send(&self, report: Report) {
        if self.reports.try_send(report).is_err() {
            tracing::debug!("an event was dropped: too many are on their way");
        }
    }

    pub(crate) fn record(&self, regarding: About, warning: bool, reason: &'static str, message: String) {
        self.send(Report { regarding, warning, reason, message });
    }
}

async fn write(client: Client, component: &'static str, mut reports: mpsc::Receiver<Report>) {
    let (mut recorder, kinds) = (Recorder::default(), Kinds::new());
    let of = Resource { group: EVENTS.group, version: EVENTS.version, plural: EVENTS.plural };
    while let Some(report) = reports.recv().await {
        let result = match recorder.record(&report, component, &kinds, now(Instant::now())) {
            Record::Create { namespace, body } => client.create(&of, Some(&namespace), &body).await.map(drop),
            Record::Count { namespace, name, body } => {
                let patch = (PatchKind::Merge, &body);
                let result = client.patch(&of, Some(&namespace), &name, None, patch).await.map(drop);
                if result.is_err() {
                    recorder.forget(&name);
                }
                result
            }
        };
        if let Err(error) = result {
            tracing::debug!(error = &error as &dyn std::error::Error, "an event was not recorded");
        }
    }
}

/// Both clocks.
pub(super) fn now(started: Instant) -> Now {
    Now { wall_ms: crate::serve::wall_clock().as_millis() as i64, monotonic: started.elapsed() }
}
