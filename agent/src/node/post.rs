//! Shell: registers the Node, posts its status when it changes, renews the Lease, and registers again when somebody
//! deleted it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::{ClusterAddresses, Facts, Health, Registration, Reserved};
use crate::join::ServingNames;
use crate::link::{Clock, Delta, Interest, Link, LinkError, PatchKind};

/// Upstream renews a lease of 40 s each 10 s.
const LEASE_INTERVAL: Duration = Duration::from_secs(10);

/// A status that did not change is posted this rarely (`nodeStatusReportFrequency`).
const STATUS_INTERVAL: Duration = Duration::from_secs(300);

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
}

/// Runs for ever.
pub async fn run(options: NodeOptions, link: Link, clock: Arc<Clock>, mut signals: NodeSignals) {
    let name = options.registration.name.clone();
    let facts = super::gather(&options.data_dir, options.server, &options.node_ips, &options.cluster);
    // Exactly what the Node says of itself: a request with any other name is not approved.
    signals.names.send_replace(ServingNames { dns: vec![name.clone()], ips: facts.addresses.clone() });
    let mut poster = Poster { options, facts, link: link.clone(), clock, node: Value::Null, posted: None };
    let mut changes = link.reflect(Interest::named("/api/v1/nodes", &name));
    let mut tick = interval(LEASE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
            _ = tick.tick() => {
                poster.look_around(&signals);
                poster.renew().await;
            }
            Ok(()) = signals.health.changed() => {}
        }
        let health = signals.health.borrow_and_update().clone();
        poster.post(&health).await;
    }
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
}

impl Poster {
    fn forget(&mut self) {
        self.node = Value::Null;
        self.posted = None;
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

    async fn post(&mut self, health: &Health) {
        let outcome = if self.node.is_null() { self.register(health).await } else { self.update(health).await };
        if let Err(error) = outcome {
            // The next tick comes in ten seconds; the watch tells sooner when the connection is back.
            if error.is_not_found() {
                self.forget();
            }
            warn!(node = %self.options.registration.name, %error, "posting the node");
        }
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

    /// A node that was there before keeps what others gave it; our own labels are brought up to date.
    async fn label(&mut self) -> Result<(), LinkError> {
        let labels = super::labels(&self.options.registration, &self.facts);
        if labels.iter().all(|(key, value)| self.node["metadata"]["labels"][key] == *value) {
            return Ok(());
        }
        self.node =
            self.link.patch(&self.path(), PatchKind::Strategic, &json!({"metadata": {"labels": labels}})).await?;
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

    async fn renew(&mut self) {
        let Some(uid) = self.node["metadata"]["uid"].as_str() else { return };
        let name = &self.options.registration.name;
        let lease = super::lease(name, uid, self.clock.now_ms());
        let collection = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let patch = json!({"spec": lease["spec"]});
        let renewed = match self.link.patch(&format!("{collection}/{name}"), PatchKind::Merge, &patch).await {
            Err(error) if error.is_not_found() => self.link.create(collection, &lease).await,
            other => other,
        };
        if let Err(error) = renewed {
            warn!(node = %name, %error, "renewing the lease");
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::link::fakes::FakeTransport;

    #[tokio::test(start_paused = true)]
    async fn a_board_registers_renews_and_stays_silent() {
        let stored = Arc::new(std::sync::Mutex::new(Value::Null));
        let server = Arc::clone(&stored);
        let transport = FakeTransport::new(move |method, path, body| {
            let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
            let mut node = server.lock().unwrap();
            let answer = |code, value: Value| (code, vec![Bytes::from(value.to_string())]);
            match (method.as_str(), path.split('?').next().unwrap()) {
                ("GET", "/api/v1/nodes") if path.contains("watch=true") => (503, Vec::new()),
                ("GET", "/api/v1/nodes") => {
                    let items: Vec<&Value> = std::iter::once(&*node).filter(|node| !node.is_null()).collect();
                    answer(200, json!({"metadata": {"resourceVersion": "1"}, "items": items}))
                }
                ("POST", "/api/v1/nodes") => {
                    *node = body;
                    node["metadata"]["uid"] = json!("u1");
                    answer(201, node.clone())
                }
                ("PATCH", path) if path.contains("/leases/") => answer(404, json!({"code": 404, "reason": "NotFound"})),
                _ => answer(200, node.clone()),
            }
        });
        let (_health, receiver) = watch::channel(Health::default());
        let node = Arc::new(watch::Sender::new(Arc::new(Value::Null)));
        let signals = NodeSignals { health: receiver, node, names: Arc::new(watch::Sender::default()) };
        let options = NodeOptions {
            registration: Registration { name: "pi-1".into(), ..Registration::default() },
            reserved: Reserved { cpu_milli: 0, memory_bytes: 0 },
            data_dir: "/".into(),
            server: None,
            node_ips: vec!["10.0.0.5".parse().unwrap()],
            cluster: ClusterAddresses::default(),
        };
        let running = tokio::spawn(run(options, Link::new(transport.clone()), Arc::default(), signals));
        tokio::time::sleep(Duration::from_secs(61)).await;
        running.abort();
        let asked = transport.asked.lock().unwrap().clone();
        let count = |text: &str| asked.iter().filter(|line| line.starts_with(text)).count();
        assert_eq!(count("POST /api/v1/nodes"), 1, "{asked:?}");
        assert_eq!(count("PATCH /api/v1/nodes/pi-1/status"), 0, "nothing changed: {asked:?}");
        assert_eq!(count("PATCH /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/pi-1"), 7, "{asked:?}");
    }
}
