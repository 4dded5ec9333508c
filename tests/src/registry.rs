//! Debian's `docker-registry` inside a board's network namespace, with a user and a password.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

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
    child: Child,
}

impl<'a> Registry<'a> {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// It does not.
    #[must_use]
    pub fn start(board: &'a Board) -> Self {
        need("docker-registry", "docker-registry");
        need("curl", "curl");
        let dir = board.dir().join("registry");
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("htpasswd"), HTPASSWD).expect("written");
        let config = json!({
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": dir.join("storage")}},
            "http": {"addr": format!(":{PORT}")},
            "auth": {"htpasswd": {"realm": "tests", "path": dir.join("htpasswd")}},
        });
        // JSON is YAML.
        fs::write(dir.join("config.yml"), config.to_string()).expect("written");
        let log = fs::File::create(dir.join("log")).expect("a log");
        let mut serve = board.command("docker-registry");
        serve.arg("serve").arg(dir.join("config.yml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = serve.spawn().expect("docker-registry starts");
        let registry = Self { board, dir, child };
        board.eventually("the registry answers", 20, || {
            let answer = output(registry.curl().args(["-o", "/dev/null", &registry.url("")]));
            answer.status.success().then_some(())
        });
        registry
    }

    /// `host:port` as image names begin.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{PORT}")
    }

    fn url(&self, rest: &str) -> String {
        format!("http://{}/v2/{rest}", self.host())
    }

    fn curl(&self) -> Command {
        let mut curl = self.board.command("curl");
        curl.args(["-sSf", "--max-time", "30", "-u", &format!("{USER}:{PASSWORD}")]);
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

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
