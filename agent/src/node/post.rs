//! Shell: registers the Node, posts its status when it changes, renews the Lease, and registers again when somebody
//! deleted it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::{ClusterAddresses, Facts, Health, Registration, Reserved};
use crate::join::ServingNames;
use crate::link::{Clock, Delta, Interest, Link, LinkError, PatchKind};

/// What a board's Lease promises unless said otherwise (upstream: 40 s, renewed each 10 s, which is 6 MB a day of an idle line).
pub const LEASE_DURATION: Duration = Duration::from_secs(100);

/// A failed renewal or post is tried again after this time, and when the connection is back.
const RETRY: Duration = Duration::from_secs(10);

/// A status that did not change is posted this rarely (`nodeStatusReportFrequency`): the Lease says that the board lives, and
/// each post is sent to all other boards.
const STATUS_INTERVAL: Duration = Duration::from_secs(12 * 3600);

/// Two renewals may fail.
pub(crate) fn renewed_every(lease: Duration) -> Duration {
    lease * 2 / 5
}

/// Identity and settings of the node.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Name, labels, taints.
    pub registration: Registration,
    /// What is kept back from pods.
    pub reserved: Reserved,
    /// Whose file system counts as ephemeral storage.
    pub data_dir: PathBuf,
    /// Where the API server is, to find the address that leads there.
    pub server: Option<SocketAddr>,
    /// `--node-ip`; empty means found by itself.
    pub node_ips: Vec<IpAddr>,
    /// For how long the board's Lease is good; renewed in two fifths of it.
    pub lease_duration: Duration,
    /// Which addresses are the cluster's, and so not the board's; their families are those that it tells.
    pub cluster: ClusterAddresses,
}

/// What the node's loop reads and tells.
#[derive(Clone)]
pub struct NodeSignals {
    /// Images, pressures, readiness: whoever knows changes it, the loop posts.
    pub health: watch::Receiver<Health>,
    /// The Node as the server has it, for whoever needs its podCIDRs, labels or taints; null before registration.
    pub node: Arc<watch::Sender<Arc<Value>>>,
    /// The names that the serving certificate must hold.
    pub names: Arc<watch::Sender<ServingNames>>,
    /// Turns true when this host ends.
    pub leaving: watch::Receiver<bool>,
}

/// Runs until the host ends, of which the Node speaks last.
pub async fn run(options: NodeOptions, link: Link, clock: Arc<Clock>, mut signals: NodeSignals) {
    let name = options.registration.name.clone();
    let facts = super::gather(&options.data_dir, options.server, &options.node_ips, &options.cluster);
    // Exactly what the Node says of itself: a request with any other name is not approved.
    signals.names.send_replace(ServingNames { dns: vec![name.clone()], ips: facts.addresses.clone() });
    let every = renewed_every(options.lease_duration);
    let mut poster =
        Poster { options, facts, link: link.clone(), clock, node: Value::Null, posted: None, known: false };
    let mut changes = link.reflect(Interest::named("/api/v1/nodes", &name));
    let mut due = Instant::now();
    let mut seen = false;
    loop {
        tokio::select! {
            delta = changes.next() => match delta {
                Delta::Restarted => seen = false,
                Delta::Applied(node) => {
                    seen = true;
                    poster.node = node.value();
                    signals.node.send_replace(Arc::new(poster.node.clone()));
                }
                Delta::Deleted(_) => {
                    info!(node = %name, "the Node was deleted, registering again");
                    poster.forget();
                }
                Delta::Synced if !seen => poster.forget(),
                Delta::Synced => {}
            },
            () = sleep_until(due) => {
                poster.look_around(&signals);
                due = Instant::now() + if poster.renew().await { every } else { RETRY.min(every) };
            }
            // Who was away is heard at once.
            () = link.reconnected() => due = Instant::now(),
            Ok(()) = signals.health.changed() => {}
            true = left(&mut signals.leaving) => {
                let mut health = signals.health.borrow().clone();
                health.not_ready.push(super::SHUTTING_DOWN.to_owned());
                poster.post(&health).await;
                return;
            }
        }
        let health = signals.health.borrow_and_update().clone();
        if !poster.post(&health).await {
            due = due.min(Instant::now() + RETRY);
        }
    }
}

async fn left(leaving: &mut watch::Receiver<bool>) -> bool {
    leaving.wait_for(|left| *left).await.is_ok()
}

struct Poster {
    options: NodeOptions,
    facts: Facts,
    link: Link,
    clock: Arc<Clock>,
    /// As the server has it; null when it is not there.
    node: Value,
    /// When the status was last posted.
    posted: Option<Instant>,
    /// The Lease that the server has is ours, and promises what we mean.
    known: bool,
}

impl Poster {
    fn forget(&mut self) {
        self.node = Value::Null;
        self.posted = None;
        self.known = false;
    }

    /// Addresses come and go: a lease ends, a router announces a prefix.
    fn look_around(&mut self, signals: &NodeSignals) {
        let NodeOptions { server, node_ips, cluster, .. } = &self.options;
        let now = super::addresses(*server, node_ips, cluster, &self.facts.addresses);
        if now != self.facts.addresses {
            info!(before = ?self.facts.addresses, ?now, "this board's addresses");
            self.facts.addresses.clone_from(&now);
            signals.names.send_modify(|names| names.ips = now);
        }
    }

    fn path(&self) -> String {
        format!("/api/v1/nodes/{}", self.options.registration.name)
    }

    /// Whether the server has what it should have.
    async fn post(&mut self, health: &Health) -> bool {
        let outcome = if self.node.is_null() { self.register(health).await } else { self.update(health).await };
        let Err(error) = outcome else { return true };
        if error.is_not_found() {
            self.forget();
        }
        warn!(node = %self.options.registration.name, %error, "posting the node");
        false
    }

    fn status(&self, health: &Health) -> Value {
        let former = &self.node["status"];
        super::status(
            &self.options.registration,
            &self.facts,
            self.options.reserved,
            health,
            former,
            self.clock.now_ms(),
        )
    }

    async fn register(&mut self, health: &Health) -> Result<(), LinkError> {
        let object = super::object(&self.options.registration, &self.facts, &self.status(health));
        match self.link.create("/api/v1/nodes", &object).await {
            Ok(node) => {
                info!(node = %self.options.registration.name, "registered");
                self.node = node;
                self.posted = Some(Instant::now());
                self.renew().await;
                Ok(())
            }
            Err(error) if error.is_already_exists() => {
                self.node = self.link.get(&self.path()).await?;
                self.label().await
            }
            Err(error) => Err(error),
        }
    }

    /// A node that was there before keeps what others gave it; our own labels and annotations are brought up to date.
    async fn label(&mut self) -> Result<(), LinkError> {
        let labels = super::labels(&self.options.registration, &self.facts);
        let annotations = super::annotations(&self.facts);
        let metadata = &self.node["metadata"];
        let said =
            |field: &str, wanted: &Map<String, Value>| wanted.iter().all(|(key, value)| metadata[field][key] == *value);
        if said("labels", &labels) && said("annotations", &annotations) {
            return Ok(());
        }
        let patch = json!({"metadata": {"labels": labels, "annotations": annotations}});
        self.node = self.link.patch(&self.path(), PatchKind::Strategic, &patch).await?;
        Ok(())
    }

    async fn update(&mut self, health: &Health) -> Result<(), LinkError> {
        let status = self.status(health);
        let old = self.posted.is_none_or(|posted| posted.elapsed() >= STATUS_INTERVAL);
        if !old && !super::differs(&self.node["status"], &status) {
            return Ok(());
        }
        debug!(node = %self.options.registration.name, "posting the node's status");
        let patch = super::status_patch(&status);
        self.node = self.link.patch(&format!("{}/status", self.path()), PatchKind::Strategic, &patch).await?;
        self.posted = Some(Instant::now());
        Ok(())
    }

    /// Whether the Lease is good again. What the server knows already is not told again: an idle line carries little else.
    async fn renew(&mut self) -> bool {
        let Some(uid) = self.node["metadata"]["uid"].as_str() else { return false };
        let name = &self.options.registration.name;
        let lease = super::lease(name, uid, self.options.lease_duration, self.clock.now_ms());
        let collection = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let time = json!({"renewTime": lease["spec"]["renewTime"]});
        let patch = json!({"spec": if self.known { &time } else { &lease["spec"] }});
        let renewed = match self.link.patch_only(&format!("{collection}/{name}"), PatchKind::Merge, &patch).await {
            Err(error) if error.is_not_found() => self.link.create(collection, &lease).await.map(drop),
            other => other,
        };
        self.known = renewed.is_ok();
        if let Err(error) = renewed {
            warn!(node = %name, %error, "renewing the lease");
        }
        self.known
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;

    use super::*;
    use crate::link::fakes::FakeTransport;

    fn options() -> NodeOptions {
        NodeOptions {
            registration: Registration { name: "pi-1".into(), ..Registration::default() },
            reserved: Reserved { cpu_milli: 0, memory_bytes: 0 },
            data_dir: "/".into(),
            server: None,
            node_ips: vec!["10.0.0.5".parse().unwrap()],
            lease_duration: LEASE_DURATION,
            cluster: ClusterAddresses::default(),
        }
    }

    /// An API server with one Node; every patch of its status is kept.
    fn server(patches: &Arc<Mutex<Vec<Value>>>) -> Arc<FakeTransport> {
        let (mut node, patches) = (Value::Null, patches.clone());
        FakeTransport::new(move |method, path, body| {
            let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
            let answer = |code, value: Value| (code, vec![Bytes::from(value.to_string())]);
            match (method.as_str(), path.split('?').next().unwrap()) {
                ("GET", "/api/v1/nodes") if path.contains("watch=true") => (503, Vec::new()),
                ("GET", "/api/v1/nodes") => {
                    let items: Vec<&Value> = std::iter::once(&node).filter(|node| !node.is_null()).collect();
                    answer(200, json!({"metadata": {"resourceVersion": "1"}, "items": items}))
                }
                ("POST", "/api/v1/nodes") => {
                    node = body;
                    node["metadata"]["uid"] = json!("u1");
                    answer(201, node.clone())
                }
                ("PATCH", path) if path.contains("/leases/") => answer(404, json!({"code": 404, "reason": "NotFound"})),
                ("PATCH", path) if path.ends_with("/status") => {
                    patches.lock().unwrap().push(body);
                    answer(200, node.clone())
                }
                _ => answer(200, node.clone()),
            }
        })
    }

    fn signals(leaving: &watch::Sender<bool>) -> (watch::Sender<Health>, NodeSignals) {
        let (health, receiver) = watch::channel(Health::default());
        let node = Arc::new(watch::Sender::new(Arc::new(Value::Null)));
        let names = Arc::new(watch::Sender::default());
        (health, NodeSignals { health: receiver, node, names, leaving: leaving.subscribe() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_board_registers_renews_and_stays_silent() {
        let transport = server(&Arc::default());
        let leave = watch::Sender::new(false);
        let (_health, signals) = signals(&leave);
        let running = tokio::spawn(run(options(), Link::new(transport.clone()), Arc::default(), signals));
        tokio::time::sleep(Duration::from_secs(121)).await;
        running.abort();
        let asked = transport.asked.lock().unwrap().clone();
        let count = |text: &str| asked.iter().filter(|line| line.starts_with(text)).count();
        assert_eq!(count("POST /api/v1/nodes"), 1, "{asked:?}");
        assert_eq!(count("PATCH /api/v1/nodes/pi-1/status"), 0, "nothing changed: {asked:?}");
        assert_eq!(count("PATCH /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/pi-1"), 4, "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_board_that_is_shut_down_says_so_last() {
        let patches = Arc::default();
        let transport = server(&patches);
        let leave = watch::Sender::new(false);
        let (_health, signals) = signals(&leave);
        let mut registered = signals.node.subscribe();
        let running = tokio::spawn(run(options(), Link::new(transport), Arc::default(), signals));
        registered.changed().await.unwrap();
        leave.send_replace(true);
        running.await.unwrap();
        let last = patches.lock().unwrap().last().cloned().unwrap();
        let conditions = last["status"]["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|one| one["type"] == "Ready").unwrap();
        assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("KubeletNotReady")));
        assert_eq!(ready["message"], "node is shutting down");
    }
}
