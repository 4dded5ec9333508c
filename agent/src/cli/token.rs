//! Shell: `bramble token`: one-time tokens with which boards join (Kubernetes' bootstrap tokens), alone or in a bundle.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bramble_agent::join::bundle::{self, Bundle};
use bramble_agent::link::Link;
use rcgen::{KeyPair, SigningKey};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::{Options, TokenVerb, admin, ranges};

const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const SERVERS: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// The authority's key, in the data directory.
const AUTHORITY_KEY: &str = "pki/ca.key";
/// kubeadm's default.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn token(verb: TokenVerb, options: &Options) -> anyhow::Result<ExitCode> {
    admin::block_on(async {
        let link = admin::link(&options.data_dir)?;
        match verb {
            TokenVerb::Create => create(&link, options).await,
            TokenVerb::List => list(&link).await,
            TokenVerb::Revoke(id) => revoke(&link, &id).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Lower-case letters and digits; bytes that would favour some of them are thrown away.
fn random(length: usize) -> anyhow::Result<String> {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::new();
    while text.len() < length {
        let mut byte = [0];
        SystemRandom::new().fill(&mut byte).map_err(|_| anyhow!("the kernel gives no random numbers"))?;
        if byte[0] < 252 {
            text.push(char::from(ALPHABET[usize::from(byte[0]) % ALPHABET.len()]));
        }
    }
    Ok(text)
}

async fn create(link: &Link, options: &Options) -> anyhow::Result<()> {
    let lifetime = options.bundle.ttl.unwrap_or(LIFETIME);
    if let Some(file) = &options.bundle.file
        && file.exists()
    {
        // Found out before there is a token that nobody knows of.
        bail!("{} exists; name a new file", file.display());
    }
    let bundle = new_token(link, lifetime).await?;
    if let Some(file) = &options.bundle.file {
        write_bundle(&bundle, file, &options.data_dir.join(AUTHORITY_KEY))?;
        println!("wrote {}", file.display());
        eprintln!(
            "bramble: carry it to the other board, as the secret that it is, and run there as root, before {}:\n\
             bramble agent --bundle {}",
            bramble_agent::pods::time::rfc3339(bundle.expires_ms),
            file.file_name().unwrap_or_default().to_string_lossy(),
        );
        return Ok(());
    }
    let pin = bundle.pin().context("the cluster's CA cannot be read")?;
    let flags = |[cluster, service]: &[String; 2]| format!(" --cluster-cidr {cluster} --service-cidr {service}");
    let ranges = bundle.ranges.as_ref().map_or_else(String::new, flags);
    println!("bramble agent --server {} --token {} --ca-pin {pin}{ranges}", bundle.servers.join(","), bundle.token);
    eprintln!(
        "bramble: run this line as root on the other board before {}; data in {}",
        bramble_agent::pods::time::rfc3339(bundle.expires_ms),
        options.data_dir.display()
    );
    Ok(())
}

/// Everything that a board needs to join, with a token made for it.
async fn new_token(link: &Link, lifetime: Duration) -> anyhow::Result<Bundle> {
    let (id, secret) = (random(6)?, random(16)?);
    let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + lifetime;
    // The token's end has whole seconds.
    let expires_ms = i64::try_from(until.as_secs() * 1000).unwrap_or(i64::MAX);
    let info = link.get("/api/v1/namespaces/kube-public/configmaps/cluster-info").await?;
    let config: Value = serde_yaml_ng::from_str(info["data"]["kubeconfig"].as_str().unwrap_or_default())?;
    let cluster = &config["clusters"][0]["cluster"];
    let pem = STANDARD.decode(cluster["certificate-authority-data"].as_str().unwrap_or_default())?;
    let authority = CertificateDer::from_pem_slice(&pem)?;
    // Of several controllers a board should know all.
    let slice = link.get(SERVERS).await.unwrap_or_default();
    let servers = servers(cluster["server"].as_str().unwrap_or_default(), &slice);
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": TYPE,
        "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
        "stringData": {
            "token-id": id, "token-secret": secret,
            "expiration": bramble_agent::pods::time::rfc3339(expires_ms),
            "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
            "description": "bramble token create",
        },
    });
    link.create(SECRETS, &object).await?;
    let ranges = ["cluster-cidr", "service-cidr"].map(|key| info["data"][key].as_str().unwrap_or_default().to_owned());
    let ranges = Some(ranges).filter(|told| told.iter().all(|one| !one.is_empty()) && *told != ranges::USUAL);
    Ok(Bundle { servers, token: format!("{id}.{secret}"), expires_ms, ranges, authority })
}

/// Signs a bundle and writes it into a new file that only its owner reads.
fn write_bundle(bundle: &Bundle, file: &Path, key: &Path) -> anyhow::Result<()> {
    let pem = std::fs::read_to_string(key)
        .with_context(|| format!("cannot read {}: a bundle is signed where the controller runs", key.display()))?;
    let key = KeyPair::from_pem(&pem).with_context(|| format!("{} is damaged", key.display()))?;
    let text = bundle.unsigned();
    let signature = key.sign(text.as_bytes()).context("the authority does not sign")?;
    let write = || {
        let mut out = std::fs::File::options().write(true).create_new(true).mode(0o600).open(file)?;
        out.write_all(bundle::signed(&text, &signature).as_bytes())?;
        out.sync_all()
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

/// The server that was named first, and the others behind the Service `kubernetes`.
fn servers(first: &str, slice: &Value) -> Vec<String> {
    let mut servers = vec![first.to_owned()];
    let port = slice["ports"][0]["port"].as_u64().unwrap_or_default();
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    for address in endpoints.filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse::<IpAddr>().ok()) {
        let url = u16::try_from(port).map(|port| format!("https://{}", SocketAddr::new(address, port)));
        servers.extend(url.ok().filter(|url| !servers.contains(url)));
    }
    servers
}

async fn list(link: &Link) -> anyhow::Result<()> {
    let secrets = link.get(&format!("{SECRETS}?fieldSelector=type%3D{}", TYPE.replace('/', "%2F"))).await?;
    let text = |secret: &Value, key: &str| -> String {
        let bytes = STANDARD.decode(secret["data"][key].as_str().unwrap_or_default()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    println!("{:<8} {:<22} DESCRIPTION", "ID", "EXPIRES");
    for secret in secrets["items"].as_array().into_iter().flatten() {
        let (id, expires) = (text(secret, "token-id"), text(secret, "expiration"));
        println!("{id:<8} {expires:<22} {}", text(secret, "description"));
    }
    Ok(())
}

async fn revoke(link: &Link, id: &str) -> anyhow::Result<()> {
    // Whoever pastes the whole token means its id.
    let id = id.split('.').next().unwrap_or(id);
    if id.len() != 6 || !id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        bail!("{id:?} is no token id; `bramble token list` shows them");
    }
    link.delete(&format!("{SECRETS}/bootstrap-token-{id}"), &json!({})).await?;
    println!("revoked {id}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_is_told_of_every_api_server() {
        let slice = json!({"ports": [{"port": 6443}],
            "endpoints": [{"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"]}]});
        let all = ["https://10.0.0.1:6443", "https://10.0.0.2:6443", "https://[fd00::1]:6443"];
        assert_eq!(servers("https://10.0.0.1:6443", &slice), all);
        assert_eq!(servers("https://pi:6443", &Value::Null), ["https://pi:6443"]);
    }
}
