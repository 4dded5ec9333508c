//! Shell: images from files: OCI layouts (a folder or a tar of one) and docker archives (`docker save`).

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use crate::content::{disk, read_bounded};
use crate::image::{Image, ImageError, Images};
use crate::pull::{Platform, Pull, Step};
use crate::reference::{Digest, Reference};

/// Files in an archive: layers, configurations and a few documents; 128 layers an image, some tens of images.
const FILES_MAX: usize = 100_000;

/// Takes every image of the file or folder at `path`; `name`, if given, becomes the name of the only image in it.
///
/// # Errors
/// No archive of a known form, a digest that is wrong, or the disk's. Images taken before the error stay.
pub fn import(images: &Images, path: &Path, name: Option<&str>, now: u64) -> Result<Vec<Image>, ImageError> {
    let source = Source::open(path)?;
    let entries = match source.small("index.json")? {
        Some(index) => layout(&source, path, &index)?,
        None => match source.small("manifest.json")? {
            Some(manifest) => docker(&source, path, &manifest)?,
            None => {
                return Err(fault(path, "neither index.json (OCI layout) nor manifest.json (docker archive) in it"));
            }
        },
    };
    if name.is_some() && entries.len() != 1 {
        return Err(fault(path, format!("{} images in it; a name can be given to one only", entries.len())));
    }
    let mut imported = Vec::new();
    for entry in entries {
        let names = name.map_or(entry.names.clone(), |name| vec![name.to_owned()]);
        if names.is_empty() {
            return Err(fault(path, "its image has no name: give one behind the file"));
        }
        let pull = unpack(images, &source, path, &entry)?;
        for name in names {
            let reference = Reference::parse(&name).map_err(|error| fault(path, error))?;
            imported.push(images.tag(&reference, &pull, now)?);
        }
    }
    Ok(imported)
}

fn fault(path: &Path, why: impl ToString) -> ImageError {
    ImageError::Archive { path: path.display().to_string(), why: why.to_string() }
}

/// One image of an archive.
struct Entry {
    names: Vec<String>,
    /// The digest of its manifest or index.
    manifest: Digest,
    /// Manifests that are made here, because a docker archive has none.
    made: HashMap<Digest, Vec<u8>>,
    /// Where a blob lies, if not at its place in an OCI layout.
    paths: HashMap<Digest, String>,
}

impl Entry {
    fn place(&self, digest: &Digest) -> String {
        self.paths.get(digest).cloned().unwrap_or_else(|| format!("blobs/sha256/{}", digest.hex()))
    }
}

fn unpack(images: &Images, source: &Source, path: &Path, entry: &Entry) -> Result<Pull, ImageError> {
    let blob = |digest: &Digest| -> Result<Vec<u8>, ImageError> {
        if let Some(made) = entry.made.get(digest) {
            return Ok(made.clone());
        }
        source.small(&entry.place(digest))?.ok_or_else(|| fault(path, format!("it lacks {digest}")))
    };
    let mut pull = Pull::of(entry.manifest.to_string(), Platform::host());
    loop {
        match pull.next(|chain_id| images.has_layer(chain_id)) {
            Step::Manifest(wanted) => {
                let digest = Digest::parse(&wanted).ok_or_else(|| fault(path, "a manifest without a digest"))?;
                pull.manifest(&blob(&digest)?)?;
            }
            Step::Config(digest) => pull.config(&blob(&digest)?)?,
            Step::Layer(index) => {
                let place = entry.place(&pull.layers()[index].digest);
                let wire = source.stream(&place)?.ok_or_else(|| fault(path, format!("it lacks {place}")))?;
                images.add_layer(pull.layers(), index, wire)?;
                pull.layer_done();
            }
            Step::Done => return Ok(pull),
        }
    }
}

/// The names under which tools write a reference into an OCI layout's index.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

fn layout(source: &Source, path: &Path, index: &[u8]) -> Result<Vec<Entry>, ImageError> {
    let index: oci_spec::image::ImageIndex = serde_json::from_slice(index).map_err(|error| fault(path, error))?;
    let tags = docker_tags(source)?;
    let mut entries = Vec::new();
    for manifest in index.manifests() {
        let text = manifest.digest().to_string();
        let digest = Digest::parse(&text).ok_or_else(|| fault(path, format!("unsupported digest {text:?}")))?;
        let annotations = manifest.annotations().clone().unwrap_or_default();
        let named = NAME_ANNOTATIONS.iter().find_map(|key| annotations.get(*key).cloned());
        // A bare tag, as the specification wants, names nothing; `docker save` has the whole name in manifest.json.
        let named = named.filter(|name| name.contains(['/', ':'])).map(|name| vec![name]);
        entries.push(Entry {
            names: named.or_else(|| tags.clone().filter(|_| index.manifests().len() == 1)).unwrap_or_default(),
            manifest: digest,
            made: HashMap::new(),
            paths: HashMap::new(),
        });
    }
    Ok(entries)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn docker_tags(source: &Source) -> Result<Option<Vec<String>>, ImageError> {
    let Some(bytes) = source.small("manifest.json")? else { return Ok(None) };
    let images: Vec<DockerImage> = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(images.into_iter().next().and_then(|image| image.repo_tags))
}

fn docker(source: &Source, path: &Path, manifest: &[u8]) -> Result<Vec<Entry>, ImageError> {
    let images: Vec<DockerImage> = serde_json::from_slice(manifest).map_err(|error| fault(path, error))?;
    images.into_iter().map(|image| docker_entry(source, path, image)).collect()
}

/// A manifest for an image that comes without one: its layers are not compressed, so their digests are the diff ids.
fn docker_entry(source: &Source, path: &Path, image: DockerImage) -> Result<Entry, ImageError> {
    let config = source.small(&image.config)?.ok_or_else(|| fault(path, format!("it lacks {}", image.config)))?;
    let parsed: oci_spec::image::ImageConfiguration =
        serde_json::from_slice(&config).map_err(|error| fault(path, error))?;
    let mut paths = HashMap::from([(Digest::of(&config), image.config)]);
    let mut layers = Vec::new();
    for (diff_id, place) in parsed.rootfs().diff_ids().iter().zip(image.layers) {
        let digest = Digest::parse(diff_id).ok_or_else(|| fault(path, format!("unsupported diff id {diff_id:?}")))?;
        let size = source.size(&place).ok_or_else(|| fault(path, format!("it lacks {place}")))?;
        layers.push(json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest.to_string(), "size": size,
        }));
        paths.insert(digest, place);
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(&config).to_string(),
            "size": config.len(),
        },
        "layers": layers,
    });
    let manifest = manifest.to_string().into_bytes();
    let digest = Digest::of(&manifest);
    Ok(Entry {
        names: image.repo_tags.unwrap_or_default(),
        manifest: digest.clone(),
        made: HashMap::from([(digest, manifest)]),
        paths,
    })
}

/// Where the parts of an archive are read from.
enum Source {
    Folder(PathBuf),
    /// Places of the files in a tar, so that layers are streamed in their order without a copy.
    Tar {
        path: PathBuf,
        files: HashMap<String, Place>,
    },
}

enum Place {
    Bytes { offset: u64, size: u64 },
    Link(String),
}

impl Source {
    fn open(path: &Path) -> Result<Self, ImageError> {
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let mut archive = tar::Archive::new(File::open(path).map_err(disk(path))?);
        let mut files = HashMap::new();
        for entry in archive.entries_with_seek().map_err(disk(path))? {
            let entry = entry.map_err(|error| fault(path, format!("it is no tar archive: {error}")))?;
            if files.len() >= FILES_MAX {
                return Err(fault(path, "too many files in it"));
            }
            let name = clean(&entry.path_bytes());
            let place = match entry.link_name_bytes() {
                // Old docker archives share equal layers by links, which are relative to their own folder.
                Some(link) if entry.header().entry_type().is_symlink() => {
                    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                    Place::Link(resolve(folder, &link))
                }
                Some(link) => Place::Link(clean(&link)),
                None => Place::Bytes { offset: entry.raw_file_position(), size: entry.size() },
            };
            files.insert(name, place);
        }
        Ok(Self::Tar { path: path.to_owned(), files })
    }

    fn locate(&self, name: &str) -> Option<(u64, u64)> {
        let Self::Tar { files, .. } = self else { return None };
        match files.get(name)? {
            Place::Bytes { offset, size } => Some((*offset, *size)),
            Place::Link(target) => match files.get(target)? {
                Place::Bytes { offset, size } => Some((*offset, *size)),
                Place::Link(_) => None,
            },
        }
    }

    fn stream(&self, name: &str) -> Result<Option<Box<dyn Read>>, ImageError> {
        match self {
            Self::Folder(root) => {
                let path = root.join(clean(name.as_bytes()));
                match File::open(&path) {
                    Ok(file) => Ok(Some(Box::new(file))),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(disk(&path)(error).into()),
                }
            }
            Self::Tar { path, .. } => {
                let Some((offset, size)) = self.locate(name) else { return Ok(None) };
                let mut file = File::open(path).map_err(disk(path))?;
                file.seek(SeekFrom::Start(offset)).map_err(disk(path))?;
                Ok(Some(Box::new(file.take(size))))
            }
        }
    }

    fn small(&self, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        match self.stream(name)? {
            Some(reader) => Ok(Some(read_bounded(reader, name)?)),
            None => Ok(None),
        }
    }

    fn size(&self, name: &str) -> Option<u64> {
        match self {
            Self::Folder(root) => root.join(clean(name.as_bytes())).metadata().ok().map(|found| found.len()),
            Self::Tar { .. } => self.locate(name).map(|(_, size)| size),
        }
    }
}

/// A relative path without `.`, `..` or doubled slashes: it cannot leave the archive.
fn clean(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    parts.join("/")
}

/// `link` as seen from `folder`.
fn resolve(folder: &str, link: &[u8]) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    let link = String::from_utf8_lossy(link).into_owned();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests;
