//! Shell: puts the control plane together and listens.

pub(crate) mod listener;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::api::{Api, Body};
use crate::authn::{Authenticator, PeerCertificate};
use crate::registry::status::ApiError;

/// Time since 1970 by the system's clock; the one place of the control plane that asks it.
pub fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The front door on the wire: authenticates, then hands to the API.
pub(crate) struct Front {
    pub(crate) api: Arc<Api>,
    pub(crate) authenticator: Authenticator,
}

impl listener::Handler for Front {
    async fn answer(
        self: Arc<Self>,
        request: http::Request<Body>,
        peer: Option<PeerCertificate>,
    ) -> http::Response<Body> {
        match self.authenticator.authenticate(request.headers(), peer.as_ref()).await {
            Ok(identity) => self.api.handle(identity, request).await,
            Err(error) => {
                tracing::debug!(%error, "not authenticated");
                crate::api::refuse(&ApiError::unauthorized())
            }
        }
    }
}

/// Serves an empty cluster from RAM to one trusted user, for trying clients.
pub fn try_out(address: &str, dir: &std::path::Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let now = i64::try_from(wall_clock().as_secs()).expect("time");
        let pki = crate::pki::Pki::open(dir, now).expect("pki");
        let address: std::net::SocketAddr = address.parse().expect("address");
        let names = crate::pki::tls::ServingNames::new(
            "node",
            &[address.ip()],
            "10.43.0.1".parse().expect("ip"),
            "cluster.local",
        );
        let tls = pki.server_config(&names, now).expect("tls");
        let config = pki.admin_kubeconfig(address, now).expect("kubeconfig");
        crate::pki::write_secret_file(&dir.join("admin.kubeconfig"), &config).expect("file");
        let store = bramble_store::Store::open(bramble_store::Config::memory()).expect("store");
        let registry =
            crate::registry::Registry::new(store, crate::kinds::Kinds::builtin(), wall_clock, Default::default());
        let registry = Arc::new(registry);
        let api =
            Arc::new(Api::new(registry.clone(), crate::authz::Authorizer::new(), wall_clock, &address.to_string()));
        let client = crate::client::Client::new(Arc::new(crate::api::InProcess::new(
            api.clone(),
            crate::identity::Identity::user("system:apiserver", &["system:masters"]),
        )));
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            client
                .create(&crate::client::Resource::new("", "v1", "namespaces"), None, &namespace)
                .await
                .expect("namespace");
        }
        let listener = tokio::net::TcpListener::bind(address).await.expect("listen");
        listener::listen(listener, tls, Arc::new(Trusting { api })).await;
    });
}

struct Trusting {
    api: Arc<Api>,
}

impl listener::Handler for Trusting {
    async fn answer(self: Arc<Self>, request: http::Request<Body>, _: Option<PeerCertificate>) -> http::Response<Body> {
        self.api.handle(crate::identity::Identity::user("kubernetes-admin", &["system:masters"]), request).await
    }
}
