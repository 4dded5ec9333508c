//! Images made from Debian's packages: unpacked into a private root, never installed, kept below `target/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::host::{need, output, succeed, workspace};

/// Changed when the recipe below changes, so that kept layers of an older one are not used.
const RECIPE: &str = "2";

/// Parts of packages that no container of a test reads.
const DEAD_WEIGHT: [&str; 6] =
    ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/lib/systemd", "lib/systemd"];

/// Images are made once for all tests of a process; another process sees whole files because they are renamed.
static MAKING: Mutex<()> = Mutex::new(());

/// An image: uncompressed layers on disk, the lowest first, and its configuration.
#[derive(Debug, Clone)]
pub struct Image {
    layers: Vec<Layer>,
    config: Value,
}

/// One layer, as a tar and as a compressed tar.
#[derive(Debug, Clone)]
struct Layer {
    tar: PathBuf,
    gzip: PathBuf,
    diff_id: String,
}

/// A content-addressed piece of an image.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Its media type.
    pub media_type: &'static str,
    /// `sha256:...`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// Where it lies.
    pub path: PathBuf,
}

/// What tests call [`tools`] on their boards.
pub const TOOLS: &str = "tests.local/tools:1";

/// busybox with all its applets, and curl with its libraries.
#[must_use]
pub fn tools() -> Image {
    Image::of_packages("tools", &["curl", "ca-certificates"], json!({"Cmd": ["/bin/sh"], "Env": [PATH]}))
}

/// nginx, in the foreground, on port 80.
#[must_use]
pub fn nginx() -> Image {
    let config = json!({
        "Entrypoint": ["/usr/sbin/nginx"], "Cmd": ["-g", "daemon off;"], "Env": [PATH],
        "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT",
    });
    Image::of_packages("nginx", &["nginx", "nginx-common"], config)
}

/// Redis, with redis-cli, as the user `redis`.
#[must_use]
pub fn redis() -> Image {
    let config = json!({
        "Entrypoint": ["/usr/bin/redis-server"], "Env": [PATH], "User": "redis", "WorkingDir": "/data",
        "ExposedPorts": {"6379/tcp": {}},
    });
    Image::of_packages("redis", &["redis-server", "redis-tools"], config)
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Accounts of the images: uids that Debian would give only at installation.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n\
                      redis:x:999:998::/var/lib/redis:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nadm:x:4:\nwww-data:x:33:\nredis:x:998:\ndialout:x:20:redis\nnogroup:x:65534:\n";

/// What an OCI layout calls the parts of an image.
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// One image.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// One image for each of several platforms.
pub const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

impl Image {
    fn of_packages(name: &str, packages: &[&str], config: Value) -> Self {
        for (program, package) in [("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("tar", "tar"), ("gzip", "gzip")] {
            need(program, package);
        }
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let base = Layer::kept("base", |root| {
            unpack(&download(&["busybox-static"]), root);
            furnish(root);
        });
        let own = Layer::kept(name, |root| {
            unpack(&download(&closure(packages, |found| packages.contains(&found) || is_library(found))), root);
            if name == "redis" {
                // Debian's maintainer script would make it.
                make_owned(&root.join("data"), 999, 998);
            }
        });
        Self { layers: vec![base, own], config }
    }

    /// One program of any architecture and nothing else, as `/bramble`, with its arguments.
    ///
    /// # Panics
    /// It cannot be read, or the disk is full.
    #[must_use]
    pub fn of_program(program: &Path, arguments: &[&str]) -> Self {
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = fs::read(program).expect("the program");
        let hash = digest(&SHA256, &bytes);
        let name: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let layer = Layer::kept(&name, |root| {
            let _ = fs::copy(program, root.join("bramble")).expect("copied");
        });
        let entrypoint: Vec<&str> = std::iter::once("/bramble").chain(arguments.iter().copied()).collect();
        Self { layers: vec![layer], config: json!({"Entrypoint": entrypoint}) }
    }

    /// The same layers under another configuration.
    #[must_use]
    pub fn with_config(&self, config: Value) -> Self {
        Self { layers: self.layers.clone(), config }
    }

    fn config(&self, architecture: &str) -> Vec<u8> {
        let diff_ids: Vec<&str> = self.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        json!({
            "architecture": architecture, "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes()
    }

    /// Configuration and layers as blobs, and the manifest that names them. Small ones are written below `dir`.
    ///
    /// # Panics
    /// The disk is full.
    #[must_use]
    pub fn blobs(&self, architecture: &str, dir: &Path) -> (Vec<Blob>, Vec<u8>) {
        let config = Blob::write(dir, CONFIG_TYPE, &self.config(architecture));
        let layers: Vec<Blob> = self.layers.iter().map(|layer| Blob::at(LAYER_TYPE, &layer.gzip)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let blobs = std::iter::once(config).chain(layers).collect();
        (blobs, manifest.to_string().into_bytes())
    }

    /// Writes what `docker save` writes.
    ///
    /// # Panics
    /// The disk is full.
    pub fn docker_archive(&self, reference: &str, path: &Path) {
        self.docker_archive_for(native(), reference, path);
    }

    /// The same for another architecture.
    ///
    /// # Panics
    /// The disk is full.
    pub fn docker_archive_for(&self, architecture: &str, reference: &str, path: &Path) {
        let dir = path.with_extension("parts");
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("config.json"), self.config(architecture)).expect("written");
        let names: Vec<String> = (0..self.layers.len()).map(|index| format!("{index}.tar")).collect();
        for (layer, name) in self.layers.iter().zip(&names) {
            // Pointed at, not copied: archives of tests share their layers. Not linked hard either: tar sees a file change
            // when another test's link to it comes or goes.
            std::os::unix::fs::symlink(&layer.tar, dir.join(name)).expect("linked");
        }
        let manifest = json!([{"Config": "config.json", "RepoTags": [reference], "Layers": names}]);
        fs::write(dir.join("manifest.json"), manifest.to_string()).expect("written");
        let _ = succeed(Command::new("tar").arg("-chf").arg(path).arg("-C").arg(&dir).arg("."));
        let _ = fs::remove_dir_all(&dir);
    }

    /// Writes an OCI image layout.
    ///
    /// # Panics
    /// The disk is full.
    pub fn oci_layout(&self, reference: &str, dir: &Path) {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("a directory");
        let (parts, manifest) = self.blobs(native(), &blobs);
        for part in parts {
            let place = blobs.join(part.digest.trim_start_matches("sha256:"));
            if !place.exists() {
                fs::copy(&part.path, place).expect("copied");
            }
        }
        let manifest = Blob::write(&blobs, MANIFEST_TYPE, &manifest);
        let mut descriptor = manifest.descriptor();
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": reference});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [descriptor]});
        fs::write(dir.join("index.json"), index.to_string()).expect("written");
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
    }
}

impl Layer {
    /// The layer that was made before, or a new one of what `fill` puts into an empty root.
    fn kept(name: &str, fill: impl FnOnce(&Path)) -> Self {
        let tar = store().join(format!("{name}-{RECIPE}.tar"));
        let gzip = tar.with_extension("tar.gz");
        if !gzip.exists() || !tar.exists() {
            let root = store().join(format!("{name}-{}.root", std::process::id()));
            fs::create_dir_all(&root).expect("a directory");
            fill(&root);
            for dead in DEAD_WEIGHT {
                let _ = fs::remove_dir_all(root.join(dead));
            }
            let half = store().join(format!("{name}-{}.half", std::process::id()));
            let mut pack = Command::new("tar");
            pack.args(["--sort=name", "--mtime=@1700000000", "--numeric-owner", "-cf"]).arg(&half).arg("-C").arg(&root);
            let _ = succeed(pack.arg("."));
            let packed = output(Command::new("gzip").args(["-1", "-n", "-c"]).arg(&half));
            assert!(packed.status.success(), "gzip failed");
            fs::rename(&half, &tar).expect("renamed");
            fs::write(&half, packed.stdout).expect("written");
            fs::rename(&half, &gzip).expect("renamed");
            let _ = fs::remove_dir_all(&root);
        }
        let diff_id = sha256(&fs::read(&tar).expect("the layer is read"));
        Self { tar, gzip, diff_id }
    }
}

impl Blob {
    fn at(media_type: &'static str, path: &Path) -> Self {
        let bytes = fs::read(path).expect("the blob is read");
        Self { media_type, digest: sha256(&bytes), size: bytes.len() as u64, path: path.to_owned() }
    }

    /// Writes bytes below `dir` under their digest.
    ///
    /// # Panics
    /// The disk is full.
    #[must_use]
    pub fn write(dir: &Path, media_type: &'static str, bytes: &[u8]) -> Self {
        let digest = sha256(bytes);
        let path = dir.join(digest.trim_start_matches("sha256:"));
        fs::write(&path, bytes).expect("written");
        Self { media_type, digest, size: bytes.len() as u64, path }
    }

    /// How a manifest or an index names it.
    #[must_use]
    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.size})
    }
}

/// The architecture of this machine, as images name it.
#[must_use]
pub fn native() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn sha256(bytes: &[u8]) -> String {
    let hex: String = digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Where packages and layers are kept from run to run.
fn store() -> PathBuf {
    let dir = workspace().join("target/images");
    fs::create_dir_all(&dir).expect("a directory");
    dir
}

fn is_library(package: &str) -> bool {
    (package.starts_with("lib") || package == "zlib1g") && !package.contains("perl")
}

/// The packages that an empty system would need for `packages`, as apt resolves them, filtered.
fn closure(packages: &[&str], wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut simulate = Command::new("apt-get");
    simulate.args(["-s", "-o", "Dir::State::status=/dev/null", "--no-install-recommends", "install"]);
    let listing = output(simulate.args(packages));
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    let found: Vec<String> = listing
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next())
        .filter(|package| wanted(package))
        .map(str::to_owned)
        .collect();
    assert!(!found.is_empty(), "apt does not know {packages:?}: apt-get update");
    found
}

/// Package files, downloaded unless an earlier run did.
fn download<T: AsRef<str>>(packages: &[T]) -> Vec<PathBuf> {
    let store = store().join("debs");
    fs::create_dir_all(&store).expect("a directory");
    let names = packages.iter().map(AsRef::as_ref);
    let fetched = output(Command::new("apt-get").args(["-q", "download"]).args(names.clone()).current_dir(&store));
    let files: Vec<PathBuf> = fs::read_dir(&store).expect("listed").flatten().map(|entry| entry.path()).collect();
    names
        .map(|name| {
            let start = format!("{name}_");
            let file =
                files.iter().find(|path| path.file_name().is_some_and(|it| it.to_string_lossy().starts_with(&start)));
            file.cloned().unwrap_or_else(|| {
                panic!("cannot download {name}: apt-get update?\n{}", String::from_utf8_lossy(&fetched.stderr))
            })
        })
        .collect()
}

fn unpack(packages: &[PathBuf], root: &Path) {
    for package in packages {
        let _ = succeed(Command::new("dpkg-deb").arg("-x").arg(package).arg(root));
    }
}

/// What every root needs beside files of packages: applets, accounts, places to write.
fn furnish(root: &Path) {
    let busybox = root.join("bin/busybox");
    for applet in succeed(Command::new(&busybox).arg("--list")).lines() {
        let link = root.join("bin").join(applet);
        if !link.exists() {
            std::os::unix::fs::symlink("busybox", link).expect("linked");
        }
    }
    for (folder, mode) in [("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700), ("run", 0o755), ("etc", 0o755)] {
        use std::os::unix::fs::PermissionsExt;
        let folder = root.join(folder);
        fs::create_dir_all(&folder).expect("a directory");
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("its mode");
    }
    fs::write(root.join("etc/passwd"), PASSWD).expect("written");
    fs::write(root.join("etc/group"), GROUP).expect("written");
}

fn make_owned(folder: &Path, uid: u32, gid: u32) {
    fs::create_dir_all(folder).expect("a directory");
    std::os::unix::fs::chown(folder, Some(uid), Some(gid)).expect("its owner");
}
