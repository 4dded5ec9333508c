//! Shell: the demonstration: an image made of this very binary, a Deployment of three, a Service on port 30080.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use bramble_agent::link::{Delta, Interest, Link, PatchKind};
use bramble_agent::local::{Ask, ask};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::admin;
use super::{Options, up};

const IMAGE: &str = "bramble.local/hello:demo";
const NODE_PORT: u16 = 30080;
const PORT: u16 = 8080;

pub(crate) fn demo(options: &Options) -> anyhow::Result<ExitCode> {
    eprintln!("bramble: demo: an image of this binary ...");
    let archive = Archive::write(&options.run_dir)?;
    let import = Ask::Import { path: archive.0.clone(), name: Some(IMAGE.into()) };
    ask(&options.run_dir, &import).map_err(|message| anyhow!(message))?;
    drop(archive);
    admin::block_on(async {
        let link = admin::link(&options.data_dir)?;
        put(&link, "/apis/apps/v1/namespaces/default/deployments", &deployment()).await?;
        put(&link, "/api/v1/namespaces/default/services", &service()).await?;
        watch(&link).await
    })?;
    let kubeconfig = options.data_dir.join(admin::KUBECONFIG);
    eprintln!("bramble: demo: http://127.0.0.1:{NODE_PORT}/ answers. Try");
    eprintln!("  export KUBECONFIG={}", kubeconfig.display());
    eprintln!("  kubectl get pods -o wide");
    eprintln!("  kubectl scale deployment hello --replicas 5");
    eprintln!("  kubectl logs -l app=hello --prefix");
    Ok(ExitCode::SUCCESS)
}

/// A docker archive that is removed with this value.
struct Archive(PathBuf);

impl Drop for Archive {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Archive {
    fn write(run_dir: &Path) -> anyhow::Result<Self> {
        up::private_dir(run_dir)?;
        let binary = std::fs::read("/proc/self/exe").context("cannot read this binary")?;
        let layer = tar(&[("bramble", 0o755, &binary)]);
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": arch, "os": "linux",
            "config": {"Entrypoint": ["/bramble", "hello"], "ExposedPorts": {format!("{PORT}/tcp"): {}}},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]},
        })
        .to_string();
        let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]).to_string();
        let archive = Self(run_dir.join("demo.tar"));
        let files: [(&str, u32, &[u8]); 3] = [
            ("manifest.json", 0o644, manifest.as_bytes()),
            ("config.json", 0o644, config.as_bytes()),
            ("layer.tar", 0o644, &layer),
        ];
        std::fs::File::create(&archive.0)
            .and_then(|mut file| file.write_all(&tar(&files)))
            .with_context(|| format!("cannot write {}", archive.0.display()))?;
        Ok(archive)
    }
}

fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A ustar archive of small names: enough for this one purpose, so no writer is linked for it.
fn tar(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, mode, content) in files {
        let mut head = [0_u8; 512];
        let mut put = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", content.len()));
        put(136, "00000000000");
        put(148, "        ");
        put(156, "0");
        put(257, "ustar");
        put(263, "00");
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn deployment() -> Value {
    let labels = json!({"app": "hello"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "hello", "labels": labels},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{
                    "name": "hello", "image": IMAGE, "imagePullPolicy": "Never",
                    "args": ["--port", PORT.to_string()],
                    "ports": [{"name": "http", "containerPort": PORT}],
                    "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5},
                    "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}},
                }]},
            },
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "hello", "labels": {"app": "hello"}},
        "spec": {
            "type": "NodePort",
            "selector": {"app": "hello"},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "nodePort": NODE_PORT}],
        },
    })
}

/// Creates an object, or brings the one that is there to this form.
async fn put(link: &Link, collection: &str, object: &Value) -> anyhow::Result<()> {
    match link.create(collection, object).await {
        Err(error) if error.is_already_exists() => {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            link.patch(&format!("{collection}/{name}"), PatchKind::Merge, object).await?;
        }
        other => drop(other?),
    }
    Ok(())
}

async fn watch(link: &Link) -> anyhow::Result<()> {
    let mut deployments = link.reflect(Interest::named("/apis/apps/v1/namespaces/default/deployments", "hello"));
    let mut told = None;
    loop {
        let Delta::Applied(object) = deployments.next().await else { continue };
        let object = object.value();
        let (ready, wanted) =
            (object["status"]["readyReplicas"].as_u64().unwrap_or(0), object["spec"]["replicas"].as_u64());
        if told != Some(ready) {
            eprintln!("bramble: demo: {ready} of {} pods ready", wanted.unwrap_or(0));
            told = Some(ready);
        }
        if Some(ready) >= wanted {
            return Ok(());
        }
    }
}
