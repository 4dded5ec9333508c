//! Shell: certificates proved by handshakes in memory and by an independent library.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

use super::request::{Request, RequestError};
use super::*;

const NOW: i64 = TIME_FLOOR + 86_400 * 200;

/// A directory of its own that goes with the test.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Dir {
        let unique = key::hex(&key::random::<8>().unwrap());
        let path = std::env::temp_dir().join(format!("bramble-{name}-{unique}"));
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn names(address: [u8; 4]) -> ServingNames {
    ServingNames::new("pi-1", &[IpAddr::from(address)], IpAddr::from([10, 43, 0, 1]), "cluster.local")
}

fn client_config(pki: &Pki, identity: Option<(Vec<u8>, Vec<u8>)>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(pki.authorities().newest.certificate().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
            builder.with_client_auth_cert(vec![CertificateDer::from(certificate)], key).unwrap()
        }
    }
}

/// Shakes hands in memory; what the server saw of the client, or why it failed.
fn handshake(
    config: &Arc<rustls::ServerConfig>,
    client: ClientConfig,
    name: &str,
) -> Result<Vec<CertificateDer<'static>>, rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(config.clone())?;
    client.writer().write_all(b"hello").unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        if !wire.is_empty() {
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
    }
    let mut greeting = [0; 5];
    server.reader().read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello");
    Ok(server.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect())
}

#[test]
fn the_api_is_reached_by_all_its_names_and_only_those() {
    let dir = Dir::new("names");
    let pki = Pki::open(&dir.0, NOW).unwrap();
    let config = pki.server_config(&names([192, 0, 2, 7]), NOW).unwrap();
    for name in
        ["127.0.0.1", "::1", "192.0.2.7", "10.43.0.1", "localhost", "pi-1", "kubernetes.default.svc.cluster.local"]
    {
        assert_eq!(handshake(&config, client_config(&pki, None), name).unwrap(), [], "{name}");
    }
    for name in ["192.0.2.8", "example.com"] {
        assert!(handshake(&config, client_config(&pki, None), name).is_err(), "{name}");
    }
}

#[test]
fn a_new_address_is_served_without_a_restart() {
    let dir = Dir::new("reload");
    let pki = Pki::open(&dir.0, NOW).unwrap();
    let config = pki.server_config(&names([192, 0, 2, 7]), NOW).unwrap();
    assert!(!pki.serving.ensure(&pki.authorities(), &names([192, 0, 2, 7]), NOW).unwrap());
    assert!(pki.serving.ensure(&pki.authorities(), &names([192, 0, 2, 8]), NOW).unwrap());
    assert!(handshake(&config, client_config(&pki, None), "192.0.2.8").is_ok());
    assert!(handshake(&config, client_config(&pki, None), "192.0.2.7").is_err());
}

#[test]
fn what_was_made_is_found_again_and_private() {
    let dir = Dir::new("again");
    let first = Pki::open(&dir.0, NOW).unwrap();
    first.server_config(&names([192, 0, 2, 7]), NOW).unwrap();
    first.take(&first.renewed(Renewal::Leaves, NOW).unwrap(), NOW).unwrap();
    let second = Pki::open(&dir.0, NOW).unwrap();
    assert_eq!(first.authorities().pins(), second.authorities().pins());
    let ids = |pki: &Pki| pki.token_keys.borrow().iter().map(|key| key.id()).collect::<Vec<_>>();
    assert_eq!((ids(&second).len(), ids(&second)), (2, ids(&first)));
    assert!(!second.serving.ensure(&second.authorities(), &names([192, 0, 2, 7]), NOW).unwrap());
    for name in ["ca.key", "serving.key", "service-account/0001.key"] {
        let mode = std::fs::metadata(dir.0.join("pki").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    std::fs::remove_file(dir.0.join("pki/ca.key")).unwrap();
    assert!(Pki::open(&dir.0, NOW).is_err());
}

#[test]
fn a_certificate_of_1970_works_today_and_the_other_way_round() {
    let dir = Dir::new("clock");
    let pki = Pki::open(&dir.0, 5).unwrap();
    let config = pki.server_config(&names([192, 0, 2, 7]), 5).unwrap();
    assert!(handshake(&config, client_config(&pki, None), "pi-1").is_ok());
    let key = Key::generate().unwrap();
    let made_late = CertificateDer::from(pki.authorities().newest.client("ann", &[], &key, NOW).unwrap());
    assert!(pki.authorities().judge(&[made_late], 5).is_ok());
}

#[test]
fn clients_are_judged_after_the_handshake() {
    let dir = Dir::new("clients");
    let pki = Pki::open(&dir.0, NOW).unwrap();
    let config = pki.server_config(&names([192, 0, 2, 7]), NOW).unwrap();
    let trust = pki.authorities();
    let key = Key::generate().unwrap();
    let good = pki.authorities().newest.client("ann", &["dev", "ops"], &key, NOW + 1000).unwrap();
    let seen = handshake(&config, client_config(&pki, Some((good, key.pkcs8().to_vec()))), "pi-1").unwrap();
    let vouched = trust.judge(&seen, NOW).unwrap();
    assert_eq!((vouched.name.as_str(), &vouched.groups), ("ann", &vec!["dev".to_owned(), "ops".to_owned()]));
    let late = trust.judge(&seen, NOW + 2000).unwrap();
    assert!(late == vouched && late.not_after < NOW + 2000, "it says until when");

    let elsewhere = Dir::new("elsewhere");
    let other = Pki::open(&elsewhere.0, NOW).unwrap();
    let forged = other.authorities().newest.client("ann", &["system:masters"], &key, NOW + 1000).unwrap();
    let seen = handshake(&config, client_config(&pki, Some((forged, key.pkcs8().to_vec()))), "pi-1").unwrap();
    assert!(trust.judge(&seen, NOW).is_err());
    let server = pki.authorities().newest.server("pi-1", Vec::new(), &key, NOW + 1000).unwrap();
    assert!(trust.judge(&[CertificateDer::from(server)], NOW).is_err());
}

#[test]
fn a_client_without_the_key_does_not_get_in() {
    let dir = Dir::new("possession");
    let pki = Pki::open(&dir.0, NOW).unwrap();
    let config = pki.server_config(&names([192, 0, 2, 7]), NOW).unwrap();
    let (own, foreign) = (Key::generate().unwrap(), Key::generate().unwrap());
    let stolen = pki.authorities().newest.client("ann", &["system:masters"], &own, NOW + 1000).unwrap();
    let mut client = client_config(&pki, None);
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(foreign.pkcs8().to_vec()));
    let signer = rustls::crypto::ring::sign::any_ecdsa_type(&private).unwrap();
    let certified = Arc::new(rustls::sign::CertifiedKey::new(vec![CertificateDer::from(stolen)], signer));
    client.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    assert!(handshake(&config, client, "pi-1").is_err());
}

pub(crate) fn request(name: &str, groups: &[&str], alt_names: &[&str]) -> String {
    let mut params =
        CertificateParams::new(alt_names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

#[test]
fn a_board_gets_what_it_may_ask_for() {
    let dir = Dir::new("signing");
    let pki = Pki::open(&dir.0, NOW).unwrap();
    let asked = Request::from_pem(request("system:node:pi-1", &["system:nodes"], &[]).as_bytes()).unwrap();
    let usages = ["digital signature", "client auth"];
    let signed =
        pki.authorities().newest.sign_request(signer::KUBELET_CLIENT, &asked, &usages, Some(3600), NOW).unwrap();
    let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
    let vouched = pki.authorities().judge(std::slice::from_ref(&der), NOW).unwrap();
    assert_eq!(vouched.name, "system:node:pi-1");
    assert_eq!(vouched.groups, ["system:nodes"]);
    assert_eq!(vouched.not_after, NOW + 3600);

    let asked =
        Request::from_pem(request("system:node:pi-1", &["system:nodes"], &["pi-1", "192.0.2.7"]).as_bytes()).unwrap();
    assert!(
        pki.authorities()
            .newest
            .sign_request(signer::KUBELET_SERVING, &asked, &["digital signature", "server auth"], None, NOW)
            .is_ok()
    );
    let refused = pki.authorities().newest.sign_request(signer::KUBELET_CLIENT, &asked, &usages, None, NOW);
    assert!(matches!(refused, Err(PkiError::Refused(message)) if message == "DNS subjectAltNames are not allowed"));
}

#[test]
fn a_request_with_a_broken_signature_is_refused() {
    let text = request("bob", &[], &[]);
    let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).unwrap();
    let mut bytes = der.to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let broken = key::pem("CERTIFICATE REQUEST", &bytes);
    assert!(matches!(Request::from_pem(broken.as_bytes()), Err(RequestError::Signature | RequestError::Malformed)));
    assert!(matches!(Request::from_pem(b"nonsense"), Err(RequestError::Pem)));
}

#[test]
fn the_administrator_gets_a_kubeconfig_that_works() {
    let dir = Dir::new("admin");
    let pki = Pki::open(&dir.0, NOW).unwrap();
    let text = pki.admin_kubeconfig("127.0.0.1:6443".parse().unwrap(), NOW).unwrap();
    let parsed: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap();
    assert_eq!(parsed["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
    let user = &parsed["users"][0]["user"];
    let pem = BASE64_STANDARD.decode(user["client-certificate-data"].as_str().unwrap()).unwrap();
    let der = CertificateDer::from_pem_slice(&pem).unwrap();
    let vouched = pki.authorities().judge(&[der], NOW).unwrap();
    assert_eq!((vouched.name.as_str(), vouched.groups), ("kubernetes-admin", vec!["system:masters".to_owned()]));
}

/// Whether a client that trusts only this authority comes in.
fn trusts(config: &Arc<rustls::ServerConfig>, authority: &CertificateDer<'static>) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions().unwrap();
    handshake(config, client.with_root_certificates(roots).with_no_client_auth(), "pi-1").is_ok()
}

#[test]
fn who_slept_through_two_rollovers_follows_the_chain_from_what_it_knows() {
    let dir = Dir::new("rollover");
    let pki = Pki::open(&dir.0, NOW).unwrap();
    let config = pki.server_config(&names([192, 0, 2, 7]), NOW).unwrap();
    let first = pki.authorities();
    assert_eq!(first.digest(), None);
    let key = Key::generate().unwrap();
    let board = first.newest.client("system:node:pi-1", &["system:nodes"], &key, NOW + 1000).unwrap();
    let board = [CertificateDer::from(board)];
    let mut known = vec![first.newest.certificate().clone()];
    for _ in 0..2 {
        pki.take(&pki.renewed(Renewal::Authority, NOW).unwrap(), NOW).unwrap();
        known.push(pki.authorities().newest.certificate().clone());
    }
    let now = pki.authorities();
    assert_eq!(now.trusted().count(), 3);
    assert_eq!(now.pins().last(), first.pins().first());
    for authority in &known {
        assert!(trusts(&config, authority), "each of them vouches for the one server");
    }
    let stranger = Dir::new("stranger");
    assert!(!trusts(&config, Pki::open(&stranger.0, NOW).unwrap().authorities().newest.certificate()));
    assert_eq!(now.judge(&board, NOW).unwrap().not_after, NOW + 1000);
    let common = pki.common().unwrap();
    assert!(!common.values().any(|text| *text == first.newest.key_pem()), "the former key is gone");

    pki.take(&pki.renewed(Renewal::OnlyTheNewest, NOW).unwrap(), NOW).unwrap();
    let retired = pki.authorities();
    assert_eq!(retired.trusted().count(), 1);
    assert_ne!(retired.digest(), now.digest());
    assert!(trusts(&config, &known[0]), "it learns of the newest by the chain");
    let vouched = retired.judge(&board, NOW).unwrap();
    assert!(vouched.is_board() && vouched.not_after < 0, "it may renew, and nothing else");
    let again = Pki::open(&dir.0, NOW).unwrap();
    assert_eq!(again.authorities().digest(), retired.digest());
    assert_eq!(again.describe()["authorities"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_cut_in_a_rollover_is_finished_at_the_next_start() {
    let dir = Dir::new("cut");
    let pki = Pki::open(&dir.0, NOW).unwrap();
    let renewed = pki.renewed(Renewal::Authority, NOW).unwrap();
    // As it is when the power goes after the first of the files.
    std::fs::write(dir.0.join("pki/next.json"), serde_json::to_vec(&renewed).unwrap()).unwrap();
    std::fs::write(dir.0.join(KEY), &renewed[KEY]).unwrap();
    let next = Pki::open(&dir.0, NOW).unwrap();
    assert_eq!(next.common().unwrap(), renewed);
    assert_eq!(next.authorities().trusted().count(), 2);
    assert!(!dir.0.join("pki/next.json").exists());
}

#[test]
fn what_cannot_be_used_is_not_taken() {
    let dir = Dir::new("unusable");
    let pki = Pki::open(&dir.0, NOW).unwrap();
    let (before, mut broken) = (pki.common().unwrap(), pki.renewed(Renewal::Authority, NOW).unwrap());
    broken.insert(KEY.to_owned(), before[KEY].clone());
    assert!(pki.take(&broken, NOW).is_err());
    assert_eq!(pki.common().unwrap(), before);
}

#[test]
fn keys_do_not_show_themselves() {
    let dir = Dir::new("debug");
    let pki = Pki::open(&dir.0, NOW).unwrap();
    let shown = format!("{pki:?}");
    let secret = pki.token_keys.borrow()[0].to_pem();
    assert!(!shown.contains("PRIVATE") && !shown.contains(secret.lines().nth(1).unwrap()));
    assert!(shown.len() < 8000);
}
