//! Debian's `docker-registry` inside a board's network namespace, with a user and a password, with or without TLS.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;

use crate::board::Board;
use crate::host::{need, output, succeed};
use crate::image::{Blob, INDEX_TYPE, Image, MANIFEST_TYPE, native};

/// Where it listens, on every address of the namespace.
const PORT: u16 = 5000;
/// Its one account.
pub const USER: &str = "alice";
/// The account's password.
pub const PASSWORD: &str = "through-the-looking-glass";
/// Its bcrypt hash, as `htpasswd -B` writes it.
const HTPASSWD: &str = "alice:$2y$05$abcdefghijklmnopqrstuuXXtqhgohfmDMgaglYvdSvNe.LbyBdIW\n";

/// A running registry. Dropping it ends it; its files lie in the board's directory.
pub struct Registry<'a> {
    board: &'a Board,
    dir: PathBuf,
    port: u16,
    secure: bool,
    child: Child,
}

impl<'a> Registry<'a> {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// It does not.
    #[must_use]
    pub fn start(board: &'a Board) -> Self {
        Self::start_at(board, PORT, false)
    }

    /// One more at another port; a secure one has a certificate of an authority of its own, see [`Self::authority`].
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start_at(board: &'a Board, port: u16, secure: bool) -> Self {
        need("docker-registry", "docker-registry");
        need("curl", "curl");
        let dir = board.dir().join(format!("registry-{port}"));
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("htpasswd"), HTPASSWD).expect("written");
        let mut http = json!({"addr": format!(":{port}")});
        if secure {
            // Who starts it again trusts it still.
            if !dir.join("ca.crt").exists() {
                make_certificate(&dir);
            }
            http["tls"] = json!({"certificate": dir.join("tls.crt"), "key": dir.join("tls.key")});
        }
        let config = json!({
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": dir.join("storage")}},
            "http": http,
            "auth": {"htpasswd": {"realm": "tests", "path": dir.join("htpasswd")}},
        });
        // JSON is YAML.
        fs::write(dir.join("config.yml"), config.to_string()).expect("written");
        let log = fs::File::create(dir.join("log")).expect("a log");
        let mut serve = board.command("docker-registry");
        serve.arg("serve").arg(dir.join("config.yml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = serve.spawn().expect("docker-registry starts");
        let registry = Self { board, dir, port, secure, child };
        board.eventually("the registry answers", 20, || {
            let answer = output(registry.curl().args(["-o", "/dev/null", &registry.url("")]));
            answer.status.success().then_some(())
        });
        registry
    }

    /// `host:port` as image names begin.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Who signed a secure one's certificate.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    fn url(&self, rest: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}/v2/{rest}", self.host())
    }

    fn curl(&self) -> Command {
        let mut curl = self.board.command("curl");
        // Over TLS too headers are spelled as `put_blobs` reads them.
        curl.args(["-sSf", "--http1.1", "--max-time", "30", "-u", &format!("{USER}:{PASSWORD}")]);
        if self.secure {
            curl.arg("--cacert").arg(self.authority());
        }
        curl
    }

    /// Pushes an image under a tag; its digest.
    ///
    /// # Panics
    /// The registry refuses.
    #[must_use]
    pub fn push(&self, image: &Image, repository: &str, tag: &str) -> String {
        self.push_for(native(), image, repository, tag)
    }

    /// The same for another architecture.
    ///
    /// # Panics
    /// The registry refuses.
    #[must_use]
    pub fn push_for(&self, architecture: &str, image: &Image, repository: &str, tag: &str) -> String {
        let (blobs, manifest) = image.blobs(architecture, &self.dir);
        self.put_blobs(repository, &blobs);
        self.put_manifest(repository, tag, MANIFEST_TYPE, &manifest).digest
    }

    /// Pushes an image of this machine beside one of another architecture, under one tag; the index's digest.
    ///
    /// # Panics
    /// The registry refuses.
    #[must_use]
    pub fn push_index(&self, own: &Image, foreign: &Image, repository: &str, tag: &str) -> String {
        let other = if native() == "arm64" { "amd64" } else { "arm64" };
        let mut manifests = Vec::new();
        // The foreign one first: who takes the first gets the wrong one.
        for (image, architecture) in [(foreign, other), (own, native())] {
            let (blobs, manifest) = image.blobs(architecture, &self.dir);
            self.put_blobs(repository, &blobs);
            let blob = Blob::write(&self.dir, MANIFEST_TYPE, &manifest);
            let _ = self.put_manifest(repository, &blob.digest, MANIFEST_TYPE, &manifest);
            let mut descriptor = blob.descriptor();
            descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
            manifests.push(descriptor);
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}).to_string();
        self.put_manifest(repository, tag, INDEX_TYPE, index.as_bytes()).digest
    }

    fn put_blobs(&self, repository: &str, blobs: &[Blob]) {
        for blob in blobs {
            let there = self.url(&format!("{repository}/blobs/{}", blob.digest));
            if output(self.curl().args(["-I", "-o", "/dev/null", &there])).status.success() {
                continue;
            }
            let uploads = self.url(&format!("{repository}/blobs/uploads/"));
            let head = succeed(self.curl().args(["-X", "POST", "-D", "-", "-o", "/dev/null", &uploads]));
            let location = head.lines().find_map(|line| line.strip_prefix("Location: ")).expect("a place").trim();
            let separator = if location.contains('?') { '&' } else { '?' };
            let place = format!("{location}{separator}digest={}", blob.digest);
            let mut put = self.curl();
            put.args(["-X", "PUT", "-H", "Content-Type: application/octet-stream", "--data-binary"]);
            let _ = succeed(put.arg(format!("@{}", blob.path.display())).arg(place));
        }
    }

    fn put_manifest(&self, repository: &str, name: &str, media_type: &'static str, manifest: &[u8]) -> Blob {
        let blob = Blob::write(&self.dir, media_type, manifest);
        let mut put = self.curl();
        put.args(["-X", "PUT", "-H", &format!("Content-Type: {media_type}"), "--data-binary"]);
        put.arg(format!("@{}", blob.path.display()));
        let _ = succeed(put.arg(self.url(&format!("{repository}/manifests/{name}"))));
        blob
    }
}

fn make_certificate(dir: &Path) {
    let write = |name: &str, text: String| fs::write(dir.join(name), text).expect("written");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Apart from the name that certificates get without one: whose issuer has its own name is taken for its own issuer.
    params.distinguished_name.push(DnType::CommonName, "registry-ca");
    let key = KeyPair::generate().expect("a key");
    write("ca.crt", params.self_signed(&key).expect("a certificate").pem());
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
    write("tls.crt", params.signed_by(&own, &issuer).expect("a certificate").pem());
    write("tls.key", own.serialize_pem());
}

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
