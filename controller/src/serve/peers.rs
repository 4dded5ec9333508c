//! Shell: which API servers there are: each renews a Lease, and all of them keep the endpoints of the Service `kubernetes`
//! at those that are alive.
//!
//! As upstream's lease reconciler, but with Leases that everybody can read. Alive is who this process has seen to renew
//! within the duration, on its own clock; after its start everybody has one whole duration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::client::{Client, ClientError, DeleteOptions, ListOptions, Resource};
use crate::serve::micro_time;

const LEASES: Resource = Resource::new("coordination.k8s.io", "v1", "leases");
const ENDPOINTS: Resource = Resource::new("", "v1", "endpoints");
const SLICES: Resource = Resource::new("discovery.k8s.io", "v1", "endpointslices");
const NAMESPACE: &str = "kube-system";
/// Upstream's own label for these.
const LABEL: &str = "apiserver.kubernetes.io/identity";
const ADDRESS: &str = "bramble.dev/api-address";

/// How often a server says that it lives, and looks who else does.
const PERIOD: Duration = Duration::from_secs(5);
/// Who is silent for so long is no endpoint any more.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// When which Lease was last seen to change.
#[derive(Debug, Default)]
struct Seen(BTreeMap<String, (String, Duration)>);

impl Seen {
    /// Takes in all Leases; gives the addresses of who lives, and the names of who does not.
    fn judge(&mut self, leases: &[Value], now: Duration) -> (Vec<SocketAddr>, Vec<String>) {
        let (mut alive, mut silent, mut seen) = (Vec::new(), Vec::new(), BTreeMap::new());
        for lease in leases {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let metadata = &lease["metadata"];
            let (name, version) = (text(&metadata["name"]), text(&metadata["resourceVersion"]));
            let since = self.0.get(&name).filter(|(held, _)| *held == version).map_or(now, |(_, since)| *since);
            if now >= since + SILENCE_MAX {
                silent.push(name.clone());
            } else {
                alive.extend(text(&metadata["annotations"][ADDRESS]).parse::<SocketAddr>());
            }
            seen.insert(name, (version, since));
        }
        self.0 = seen;
        alive.sort_unstable();
        (alive, silent)
    }
}

/// What Endpoints and slice say; the servers listen on the same port, as this one does.
fn wanted(alive: &[SocketAddr], port: u16) -> (Value, Value, Value) {
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let here: Vec<String> =
        alive.iter().filter(|it| it.port() == port && !it.ip().is_loopback()).map(|it| it.ip().to_string()).collect();
    let addresses: Vec<Value> = here.iter().map(|ip| json!({"ip": ip})).collect();
    let subsets = if here.is_empty() { json!([]) } else { json!([{"addresses": addresses, "ports": ports}]) };
    let behind = here.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    (subsets, Value::Array(behind), ports)
}

/// One API server among several.
pub(super) struct Peer {
    pub(super) client: Client,
    pub(super) advertised: SocketAddr,
    pub(super) node_name: String,
    pub(super) identity: String,
    pub(super) readiness: Arc<dyn Fn(bool) + Send + Sync>,
}

impl Peer {
    /// Until `stop` changes or is dropped; then the others know at once that this one is gone.
    pub(super) async fn run(self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.serve() => {}
            _ = stop.changed() => {
                let gone = self.client.delete(&LEASES, Some(NAMESPACE), &self.lease(), &DeleteOptions::default()).await;
                if let Err(error) = gone {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the others find out that this one is gone");
                }
            }
        }
    }

    /// For ever.
    async fn serve(&self) {
        let (started, mut seen) = (Instant::now(), Seen::default());
        loop {
            let done = timeout(SILENCE_MAX, self.once(&mut seen, started)).await;
            // Who cannot write its Lease is not ready, whatever the reason; that another server was faster is none.
            let faster = |error: &ClientError| error.is_conflict() || error.is_already_exists() || error.is_not_found();
            (self.readiness)(done.as_ref().is_ok_and(|done| done.as_ref().err().is_none_or(faster)));
            if let Ok(Err(error)) = done {
                tracing::debug!(error = &error as &dyn std::error::Error, "the API servers were not looked at");
            }
            sleep(PERIOD).await;
        }
    }

    async fn once(&self, seen: &mut Seen, started: Instant) -> Result<(), ClientError> {
        self.renew().await?;
        let selector = format!("{LABEL}=kube-apiserver");
        let leases = self.client.list(&LEASES, Some(NAMESPACE), &ListOptions::labels(&selector)).await?.items;
        let (alive, silent) = seen.judge(&leases, started.elapsed());
        let (subsets, behind, ports) = wanted(&alive, self.advertised.port());
        self.bring(&ENDPOINTS, json!({"kind": "Endpoints", "apiVersion": "v1", "subsets": subsets})).await?;
        let family = if self.advertised.is_ipv6() { "IPv6" } else { "IPv4" };
        let slice = json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": family,
            "endpoints": behind, "ports": ports});
        self.bring(&SLICES, slice).await?;
        for name in silent {
            tracing::info!(name, "an API server is silent; it is no endpoint any more");
            let gone = self.client.delete(&LEASES, Some(NAMESPACE), &name, &DeleteOptions::default()).await;
            gone.map(drop).or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })?;
        }
        Ok(())
    }

    fn lease(&self) -> String {
        format!("apiserver-{}", self.advertised.to_string().replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
    }

    async fn renew(&self) -> Result<(), ClientError> {
        let name = self.lease();
        let spec = json!({"holderIdentity": self.identity, "leaseDurationSeconds": SILENCE_MAX.as_secs(),
            "renewTime": micro_time()});
        match self.client.get(&LEASES, Some(NAMESPACE), &name).await {
            Ok(mut lease) => {
                lease["spec"] = spec;
                self.client.update(&LEASES, &lease).await.map(drop)
            }
            Err(error) if error.is_not_found() => {
                let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec,
                    "metadata": {"name": name, "namespace": NAMESPACE, "annotations": {ADDRESS: self.advertised.to_string()},
                        "labels": {LABEL: "kube-apiserver", "kubernetes.io/hostname": self.node_name}}});
                self.client.create(&LEASES, Some(NAMESPACE), &lease).await.map(drop)
            }
            Err(error) => Err(error),
        }
    }

    /// Creates the object `kubernetes`, or brings its fields to what is wanted.
    async fn bring(&self, of: &Resource, mut wanted: Value) -> Result<(), ClientError> {
        let found = match self.client.get(of, Some("default"), "kubernetes").await {
            Err(error) if error.is_not_found() => None,
            found => Some(found?),
        };
        let Some(mut found) = found else {
            let label =
                if *of == SLICES { "kubernetes.io/service-name" } else { "endpointslice.kubernetes.io/skip-mirror" };
            let value = if *of == SLICES { "kubernetes" } else { "true" };
            wanted["metadata"] = json!({"name": "kubernetes", "namespace": "default", "labels": {label: value}});
            return self.client.create(of, Some("default"), &wanted).await.map(drop);
        };
        let fields = ["subsets", "endpoints", "ports"];
        let differs = |field: &&str| !wanted[*field].is_null() && wanted[*field] != found[*field];
        let changed: Vec<&str> = fields.iter().filter(|field| differs(field)).copied().collect();
        if changed.is_empty() {
            return Ok(());
        }
        for field in changed {
            found[field] = wanted[field].clone();
        }
        // Of two servers at once one writes; the other one sees it the next time.
        match self.client.update(of, &found).await {
            Err(error) if !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(name: &str, version: &str, address: &str) -> Value {
        json!({"metadata": {"name": name, "resourceVersion": version, "annotations": {ADDRESS: address}}})
    }

    #[test]
    fn who_does_not_renew_is_no_endpoint_after_a_while() {
        let mut seen = Seen::default();
        let mut at = |now: u64, a: &str, b: &str| {
            let leases = [lease("b", b, "10.0.0.2:6443"), lease("a", a, "10.0.0.1:6443")];
            seen.judge(&leases, Duration::from_secs(now))
        };
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        assert_eq!(at(100, "1", "1").0, addresses(&["10.0.0.1:6443", "10.0.0.2:6443"]));
        assert_eq!(at(110, "2", "1").0.len(), 2);
        assert_eq!(at(115, "3", "1"), (addresses(&["10.0.0.1:6443"]), vec!["b".to_owned()]));
        assert_eq!(at(116, "3", "2").0.len(), 2, "it is back");
    }

    #[test]
    fn endpoints_hold_every_reachable_server_of_the_port() {
        let alive: Vec<SocketAddr> = ["10.0.0.1:6443", "10.0.0.2:6443", "127.0.0.1:6443", "10.0.0.3:7443"]
            .map(|text| text.parse().unwrap())
            .into();
        let (subsets, behind, _) = wanted(&alive, 6443);
        assert_eq!(subsets[0]["addresses"], json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]));
        assert_eq!(behind.as_array().map(Vec::len), Some(2));
        assert_eq!(wanted(&[], 6443).0, json!([]));
    }
}
