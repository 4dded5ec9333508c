//! Shell: a CertificateSigningRequest from its making to the signed certificate.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::{JoinError, ServingNames};
use crate::link::{Delta, Interest, Link};

/// How long certificates are to live. A board that was off for longer renews with its key; one that was stolen has
/// nothing that lasts.
const LIFE_S: u64 = 30 * 86_400;
const COLLECTION: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// What a certificate is to say.
pub(super) struct Wanted {
    signer: &'static str,
    usages: [&'static str; 2],
    prefix: &'static str,
    node_name: String,
    names: ServingNames,
    /// Tells one request over a key from the next.
    instead_of: Vec<u8>,
}

impl Wanted {
    /// `instead_of`: the certificate that the new one replaces, if there is one.
    pub(super) fn client(node_name: &str, instead_of: Option<&CertificateDer<'_>>) -> Self {
        Self {
            instead_of: instead_of.map(|former| former.to_vec()).unwrap_or_default(),
            signer: "kubernetes.io/kube-apiserver-client-kubelet",
            usages: ["digital signature", "client auth"],
            prefix: "node-csr-",
            node_name: node_name.to_owned(),
            names: ServingNames::default(),
        }
    }

    pub(super) fn serving(node_name: &str, names: &ServingNames) -> Self {
        Self {
            instead_of: Vec::new(),
            signer: "kubernetes.io/kubelet-serving",
            usages: ["digital signature", "server auth"],
            prefix: "csr-",
            node_name: node_name.to_owned(),
            names: names.clone(),
        }
    }

    fn pem(&self, key: &KeyPair) -> Result<String, JoinError> {
        let unusable = |error: rcgen::Error| JoinError::Unusable(format!("the certificate request: {error}"));
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", self.node_name));
        for name in &self.names.dns {
            params.subject_alt_names.push(SanType::DnsName(name.clone().try_into().map_err(unusable)?));
        }
        params.subject_alt_names.extend(self.names.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        params.serialize_request(key).and_then(|request| request.pem()).map_err(unusable)
    }

    fn object(&self, name: &str, pem: &str) -> Value {
        json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": name},
            "spec": {"request": STANDARD.encode(pem), "signerName": self.signer, "usages": self.usages,
                "expirationSeconds": LIFE_S},
        })
    }

    /// The name derives from key and content, so that a restart finds the request that is under way.
    fn name(&self, key: &KeyPair) -> String {
        let mut content = key.public_key_raw().to_vec();
        content.extend_from_slice(self.signer.as_bytes());
        content.extend_from_slice(format!("{:?}{:?}", self.names.dns, self.names.ips).as_bytes());
        content.extend_from_slice(&self.instead_of);
        let hash = ring::digest::digest(&ring::digest::SHA256, &content);
        let hex: String = hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}{hex}", self.prefix)
    }
}

/// Asks, waits (by watch) as long as it takes, and returns the chain in PEM.
pub(super) async fn obtain(link: &Link, key: &KeyPair, wanted: &Wanted) -> Result<String, JoinError> {
    let name = wanted.name(key);
    let object = wanted.object(&name, &wanted.pem(key)?);
    match link.create(COLLECTION, &object).await {
        Ok(_) => {}
        Err(error) if error.is_already_exists() => {}
        Err(error) => return Err(error.into()),
    }
    let mut changes = link.reflect(Interest::named(COLLECTION, &name));
    loop {
        let gone =
            |_| JoinError::Failed { name: name.clone(), message: "it was deleted before it was signed".to_owned() };
        match changes.next().await {
            Delta::Applied(request) => {
                if let Some(chain) = outcome(&name, &request.value())? {
                    return Ok(chain);
                }
            }
            Delta::Deleted(request) => return Err(gone(request)),
            Delta::Restarted | Delta::Synced => {}
        }
    }
}

/// The signed chain, nothing yet, or a refusal.
fn outcome(name: &str, request: &Value) -> Result<Option<String>, JoinError> {
    let conditions = request["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let condition = |kind: &str| conditions.iter().find(|one| one["type"] == kind);
    let message = |one: &Value| one["message"].as_str().unwrap_or("no reason given").to_owned();
    if let Some(denied) = condition("Denied") {
        return Err(JoinError::Denied { name: name.to_owned(), message: message(denied) });
    }
    if let Some(failed) = condition("Failed") {
        return Err(JoinError::Failed { name: name.to_owned(), message: message(failed) });
    }
    let Some(encoded) = request["status"]["certificate"].as_str().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let failed = |error: String| JoinError::Failed { name: name.to_owned(), message: error };
    let bytes = STANDARD.decode(encoded).map_err(|error| failed(error.to_string()))?;
    String::from_utf8(bytes).map(Some).map_err(|error| failed(error.to_string()))
}

/// The authorities in the kubeconfig of `kube-public/cluster-info`.
pub(super) fn authorities_of_cluster_info(config_map: &Value) -> Vec<CertificateDer<'static>> {
    let Some(text) = config_map["data"]["kubeconfig"].as_str() else { return Vec::new() };
    let Ok(kubeconfig) = serde_yaml_ng::from_str::<Value>(text) else { return Vec::new() };
    let clusters = kubeconfig["clusters"].as_array().map(Vec::as_slice).unwrap_or_default();
    clusters
        .iter()
        .filter_map(|cluster| cluster["cluster"]["certificate-authority-data"].as_str())
        .filter_map(|data| STANDARD.decode(data).ok())
        .flat_map(|pem| CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect::<Vec<_>>())
        .collect()
}

/// DER as PEM with lines of 64 characters.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, next) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = next;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::join::files::new_key;
    use crate::link::fakes::FakeTransport;

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_its_certificate() {
        let key = new_key().unwrap();
        let wanted = Wanted::client("pi-1", None);
        let mut step = 0;
        let transport = FakeTransport::new(move |method, _, body| {
            step += 1;
            let chunk = |text: String| vec![Bytes::from(text)];
            match step {
                1 => {
                    assert_eq!(method, "POST");
                    let object: Value = serde_json::from_slice(body).unwrap();
                    assert_eq!(object["spec"]["usages"], json!(["digital signature", "client auth"]));
                    (201, chunk("{}".into()))
                }
                2 => (200, chunk(json!({"metadata": {"resourceVersion": "1"}, "items": [{"status": {}}]}).to_string())),
                _ => {
                    let signed = json!({"status": {"certificate": STANDARD.encode("PEM")}});
                    (200, chunk(format!("{}\n", json!({"type": "MODIFIED", "object": signed}))))
                }
            }
        });
        assert_eq!(obtain(&Link::new(transport), &key, &wanted).await.unwrap(), "PEM");
    }

    #[test]
    fn a_denied_request_says_why() {
        let request = json!({"status": {"conditions": [{"type": "Denied", "message": "not today"}]}});
        let error = outcome("csr-1", &request).unwrap_err();
        assert_eq!(error.to_string(), "the certificate request csr-1 was denied: not today");
    }

    #[test]
    fn pem_lines_are_short_and_come_back() {
        let text = pem("CERTIFICATE", &[7; 100]);
        assert!(text.lines().all(|line| line.len() <= 64));
        assert_eq!(CertificateDer::from_pem_slice(text.as_bytes()).unwrap().as_ref(), [7; 100]);
    }

    #[test]
    fn the_request_names_the_node_and_its_addresses() {
        use x509_parser::prelude::{FromDer, X509CertificationRequest};
        let names = ServingNames { dns: vec!["pi-1".into()], ips: vec!["10.0.0.5".parse().unwrap()] };
        let text = Wanted::serving("pi-1", &names).pem(&new_key().unwrap()).unwrap();
        let (_, der) = x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&der.contents).unwrap();
        assert_eq!(request.certification_request_info.subject.to_string(), "O=system:nodes, CN=system:node:pi-1");
        assert!(format!("{:?}", request.requested_extensions().unwrap().collect::<Vec<_>>()).contains("pi-1"));
    }
}
