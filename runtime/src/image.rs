//! Shell: the images of a board: references to manifests, unpacked layers, and the writable folder of each container.
//!
//! ```text
//! <root>/references/<sha256 of the reference>   what a name stands for
//! <root>/blobs/<sha256>                         manifests and configurations
//! <root>/layers/<chain id>/                     one unpacked layer, shared by all images that have it
//! <root>/containers/<container id>/upper, work  what one container wrote
//! ```
//! A layer appears by rename after its bytes have reached the disk, so a power cut leaves it whole or absent; what a
//! cut left half done is removed on the next open.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use oci_spec::image::{ImageConfiguration, ImageManifest};
use serde::{Deserialize, Serialize};

use crate::content::{Content, ContentError, disk, write_durably};
use crate::pull::{Layer, Pull, PullError};
use crate::reference::{Digest, Reference};
use crate::unpack::{Expected, UnpackError, unpack};

/// Why an image could not be read, kept or removed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A blob or file.
    #[error("image store")]
    Content(#[from] ContentError),
    /// A layer.
    #[error("layer {digest}")]
    Unpack {
        /// Which one.
        digest: Digest,
        /// What went wrong.
        source: UnpackError,
    },
    /// A manifest.
    #[error("manifest")]
    Pull(#[from] PullError),
    /// A document in the store that does not parse.
    #[error("{what}")]
    Document {
        /// Which one.
        what: String,
        /// The parser's word.
        source: serde_json::Error,
    },
    /// An archive that is neither an OCI layout nor a docker archive, or lacks a part.
    #[error("{path}: {why}")]
    Archive {
        /// The archive.
        path: String,
        /// What is wrong.
        why: String,
    },
}

/// What a reference stands for, as kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    reference: String,
    manifest: Digest,
    /// Seconds since 1970, by the board's clock: only for a person's eyes.
    #[serde(default)]
    added: u64,
}

/// An image that is whole on this board.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration: what Kubernetes calls the image id.
    pub id: Digest,
    /// The digest of its manifest: what follows the `@` of a repo digest.
    pub manifest: Digest,
    /// Every name that stands for it, normalised, sorted.
    pub references: Vec<String>,
    /// Bytes on the wire.
    pub size: u64,
    /// Chain ids of its layers, lowest first.
    pub layers: Vec<Digest>,
    /// Entry point, environment, user and the like.
    pub config: ImageConfiguration,
}

/// What a container's root is mounted from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Read-only layers, uppermost first.
    pub lower: Vec<PathBuf>,
    /// Where the container writes.
    pub upper: PathBuf,
    /// overlayfs' own working folder.
    pub work: PathBuf,
}

/// The image store of one instance.
#[derive(Debug)]
pub struct Images {
    root: PathBuf,
    content: Content,
    next_temporary: AtomicU64,
}

impl Images {
    /// Opens or creates the store below `root` and clears what a crash left half done.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(root: PathBuf) -> Result<Self, ImageError> {
        for folder in ["references", "layers", "containers"] {
            let folder = root.join(folder);
            std::fs::create_dir_all(&folder).map_err(disk(&folder))?;
        }
        let content = Content::open(root.join("blobs"))?;
        let images = Self { root, content, next_temporary: AtomicU64::new(0) };
        for name in images.names("layers")? {
            if name.starts_with(TEMPORARY) {
                images.remove_tree(&images.root.join("layers").join(name))?;
            }
        }
        Ok(images)
    }

    fn names(&self, folder: &str) -> Result<Vec<String>, ImageError> {
        let folder = self.root.join(folder);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(disk(&folder))? {
            names.extend(entry.map_err(disk(&folder))?.file_name().into_string());
        }
        Ok(names)
    }

    fn remove_tree(&self, path: &Path) -> Result<(), ImageError> {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(disk(path)(error).into()),
            _ => Ok(()),
        }
    }

    fn record_path(&self, reference: &str) -> PathBuf {
        self.root.join("references").join(Digest::of(reference.as_bytes()).hex())
    }

    fn records(&self) -> Result<Vec<Record>, ImageError> {
        let mut records = Vec::new();
        for name in self.names("references")? {
            let path = self.root.join("references").join(&name);
            // A half-written temporary of a crash, or a file that a bad card broke: the name must be pulled again.
            match std::fs::read(&path).map(|bytes| serde_json::from_slice::<Record>(&bytes)) {
                Ok(Ok(record)) => records.push(record),
                Ok(Err(_)) => std::fs::remove_file(&path).map_err(disk(&path))?,
                Err(error) => return Err(disk(&path)(error).into()),
            }
        }
        records.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(records)
    }

    /// Every whole image, each once, sorted by its first name.
    ///
    /// # Errors
    /// The disk's, or a document that does not parse.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images: Vec<Image> = Vec::new();
        for record in self.records()? {
            match images.iter_mut().find(|image| image.manifest == record.manifest) {
                Some(image) => image.references.push(record.reference),
                None => images.extend(self.load(&record.manifest, vec![record.reference])?),
            }
        }
        Ok(images)
    }

    /// The image that a reference, an image id or a manifest digest stands for, if all of it is here.
    ///
    /// # Errors
    /// The disk's, or a document that does not parse.
    pub fn get(&self, name: &str) -> Result<Option<Image>, ImageError> {
        if let Some(digest) = Digest::parse(name) {
            return Ok(self.list()?.into_iter().find(|image| image.id == digest || image.manifest == digest));
        }
        let Ok(reference) = Reference::parse(name) else { return Ok(None) };
        let path = self.record_path(&reference.to_string());
        let manifest = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Record>(&bytes).ok().map(|record| record.manifest),
            // Pulled by a tag, asked for by the digest that the tag stood for.
            Err(_) => reference.digest.clone(),
        };
        match manifest {
            Some(manifest) => self.load(&manifest, vec![reference.to_string()]),
            None => Ok(None),
        }
    }

    /// Reads an image by its manifest; `None` when a part of it is missing or corrupt, so that it is pulled again.
    fn load(&self, manifest: &Digest, references: Vec<String>) -> Result<Option<Image>, ImageError> {
        let Some((bytes, parsed)) = self.manifest(manifest)? else { return Ok(None) };
        let config = match self.content.get(&config_digest(&parsed)?) {
            Ok(config) => config,
            Err(ContentError::Absent(_) | ContentError::Corrupt(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut pull = Pull::of(manifest.to_string(), crate::pull::Platform::host());
        pull.manifest(&bytes)?;
        pull.config(&config)?;
        if !pull.layers().iter().all(|layer| self.has_layer(&layer.chain_id)) {
            return Ok(None);
        }
        Ok(Some(Image {
            id: Digest::of(&config),
            manifest: manifest.clone(),
            references,
            size: pull.layers().iter().map(|layer| layer.size).sum::<u64>() + config.len() as u64,
            layers: pull.layers().iter().map(|layer| layer.chain_id.clone()).collect(),
            config: serde_json::from_slice(&config)
                .map_err(|source| ImageError::Document { what: "image configuration".into(), source })?,
        }))
    }

    fn manifest(&self, digest: &Digest) -> Result<Option<(Vec<u8>, ImageManifest)>, ImageError> {
        let bytes = match self.content.get(digest) {
            Ok(bytes) => bytes,
            Err(ContentError::Absent(_) | ContentError::Corrupt(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let parsed = serde_json::from_slice(&bytes)
            .map_err(|source| ImageError::Document { what: format!("manifest {digest}"), source })?;
        Ok(Some((bytes, parsed)))
    }

    fn layer_path(&self, chain_id: &Digest) -> PathBuf {
        self.root.join("layers").join(chain_id.hex())
    }

    /// Whether a layer is unpacked here.
    #[must_use]
    pub fn has_layer(&self, chain_id: &Digest) -> bool {
        self.layer_path(chain_id).is_dir()
    }

    /// Unpacks layer `index` of `layers` from its bytes on the wire. Two pulls of the same layer do not disturb each other.
    ///
    /// # Errors
    /// A layer that is not what the manifest promised; nothing of it stays.
    pub fn add_layer(&self, layers: &[Layer], index: usize, wire: impl Read) -> Result<(), ImageError> {
        let layer = &layers[index];
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.root.join("layers").join(format!("{TEMPORARY}{}-{number}", layer.chain_id.hex()));
        std::fs::create_dir_all(&temporary).map_err(disk(&temporary))?;
        let parents: Vec<PathBuf> =
            layers[..index].iter().rev().map(|layer| self.layer_path(&layer.chain_id)).collect();
        let expected = Expected { digest: Some(layer.digest.clone()), diff_id: layer.diff_id.clone() };
        let result = unpack(wire, &temporary, &parents, &expected)
            .map_err(|source| ImageError::Unpack { digest: layer.digest.clone(), source })
            .and_then(|_| self.publish(&temporary, &self.layer_path(&layer.chain_id)));
        if result.is_err() {
            let _ = self.remove_tree(&temporary);
        }
        result
    }

    fn publish(&self, temporary: &Path, path: &Path) -> Result<(), ImageError> {
        if path.is_dir() {
            return self.remove_tree(temporary);
        }
        let folder = self.root.join("layers");
        std::fs::rename(temporary, path).map_err(disk(path))?;
        std::fs::File::open(&folder).and_then(|folder| folder.sync_all()).map_err(disk(&folder))?;
        Ok(())
    }

    /// Gives a finished pull its name. From here on the image is there.
    ///
    /// # Errors
    /// The disk's.
    pub fn tag(&self, reference: &Reference, pull: &Pull, now: u64) -> Result<Image, ImageError> {
        let (manifest, config) = pull.documents().ok_or_else(|| PullError::Invalid {
            what: reference.to_string(),
            why: "the pull is not complete".into(),
        })?;
        self.content.put(config)?;
        let record = Record { reference: reference.to_string(), manifest: self.content.put(manifest)?, added: now };
        let bytes = serde_json::to_vec(&record)
            .map_err(|source| ImageError::Document { what: record.reference.clone(), source })?;
        write_durably(&self.record_path(&record.reference), &bytes)?;
        self.load(&record.manifest, vec![record.reference])?.ok_or_else(|| {
            PullError::Invalid { what: reference.to_string(), why: "a layer vanished while it was pulled".into() }
                .into()
        })
    }

    /// Forgets a name, or every name of an image id; its bytes go with [`Images::sweep`]. Returns whether there was one.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove(&self, name: &str) -> Result<bool, ImageError> {
        let names = match (Digest::parse(name), Reference::parse(name)) {
            (Some(_), _) => self.get(name)?.map_or(Vec::new(), |image| image.references),
            (None, Ok(reference)) => vec![reference.to_string()],
            (None, Err(_)) => Vec::new(),
        };
        let mut removed = false;
        for name in names {
            let path = self.record_path(&name);
            match std::fs::remove_file(&path) {
                Ok(()) => removed = true,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(disk(&path)(error).into()),
            }
        }
        Ok(removed)
    }

    /// The writable folder of a container over its image's layers; made anew if it is not there.
    ///
    /// # Errors
    /// The disk's.
    pub fn prepare(&self, container_id: &str, image: &Image) -> Result<Snapshot, ImageError> {
        let folder = self.root.join("containers").join(container_id);
        let (upper, work) = (folder.join("upper"), folder.join("work"));
        for path in [&upper, &work] {
            std::fs::create_dir_all(path).map_err(disk(path))?;
        }
        // The image's note outlives the agent: a sweep must not take layers from under a running container.
        let note = folder.join("layers");
        let lower: Vec<PathBuf> = image.layers.iter().rev().map(|chain_id| self.layer_path(chain_id)).collect();
        let lines: Vec<&str> = image.layers.iter().map(Digest::hex).collect();
        std::fs::write(&note, lines.join("\n")).map_err(disk(&note))?;
        self.inherit_root(lower.first(), &upper)?;
        Ok(Snapshot { lower, upper, work })
    }

    /// The merged root shows the upper folder's owner and mode, which must be the image's.
    fn inherit_root(&self, topmost: Option<&PathBuf>, upper: &Path) -> Result<(), ImageError> {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let (mode, uid, gid) = match topmost {
            Some(layer) => {
                let root = layer.metadata().map_err(disk(layer))?;
                (root.mode() & 0o7777, root.uid(), root.gid())
            }
            None => (0o755, 0, 0),
        };
        std::fs::set_permissions(upper, PermissionsExt::from_mode(mode)).map_err(disk(upper))?;
        std::os::unix::fs::chown(upper, Some(uid), Some(gid)).map_err(disk(upper))?;
        Ok(())
    }

    /// Removes what a container wrote; it must be unmounted.
    ///
    /// # Errors
    /// The disk's.
    pub fn discard(&self, container_id: &str) -> Result<(), ImageError> {
        self.remove_tree(&self.root.join("containers").join(container_id))
    }

    /// Containers that have a writable folder.
    ///
    /// # Errors
    /// The disk's.
    pub fn containers(&self) -> Result<Vec<String>, ImageError> {
        self.names("containers")
    }

    /// Removes layers and documents that no name and no container needs; returns how many layers went. Not while a pull runs.
    ///
    /// # Errors
    /// The disk's.
    pub fn sweep(&self) -> Result<usize, ImageError> {
        let (mut layers, mut blobs) = (HashSet::new(), HashSet::new());
        for record in self.records()? {
            let Some((_, manifest)) = self.manifest(&record.manifest)? else { continue };
            blobs.extend([record.manifest.hex().to_owned(), config_digest(&manifest)?.hex().to_owned()]);
            if let Some(image) = self.load(&record.manifest, Vec::new())? {
                layers.extend(image.layers.into_iter().map(|layer| layer.hex().to_owned()));
            }
        }
        for container in self.containers()? {
            let note = self.root.join("containers").join(container).join("layers");
            layers.extend(std::fs::read_to_string(note).unwrap_or_default().lines().map(str::to_owned));
        }
        self.content.retain(|name| blobs.contains(name))?;
        let mut removed = 0;
        for name in self.names("layers")? {
            if !layers.contains(&name) {
                self.remove_tree(&self.root.join("layers").join(name))?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Prefix of a layer that is still being unpacked.
const TEMPORARY: &str = "tmp-";

fn config_digest(manifest: &ImageManifest) -> Result<Digest, ImageError> {
    let text = manifest.config().digest().to_string();
    Digest::parse(&text).ok_or_else(|| {
        PullError::Invalid { what: "image manifest".into(), why: format!("unsupported digest {text:?}") }.into()
    })
}
