//! Pure: what to fetch next until an image is complete. Knows no transport: a registry and an archive drive it alike.
//!
//! ```text
//! Manifest(tag or digest) -> [index: Manifest(digest of this platform)] -> Config -> Layer ... Layer -> Done
//! ```

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, Os};

use crate::reference::{Digest, Reference};

/// The `Accept` header of a manifest request: OCI first, Docker's older forms behind.
pub const MANIFEST_ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";
/// Docker's own engine stops at 127 layers.
const LAYERS_MAX: usize = 128;
/// An index in an index is legal; a chain of them is an attack.
const INDEX_DEPTH_MAX: usize = 2;

/// Which image of a multi-platform index runs here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    arch: Arch,
    /// Variants that run here, best first.
    variants: &'static [&'static str],
}

impl Platform {
    /// The platform that this binary was built for.
    #[must_use]
    pub fn host() -> Self {
        match std::env::consts::ARCH {
            "aarch64" => Self { arch: Arch::ARM64, variants: &["v8", ""] },
            "arm" => Self { arch: Arch::ARM, variants: &["v7", "v6", "v5", ""] },
            "x86_64" => Self { arch: Arch::Amd64, variants: &["", "v1", "v2", "v3"] },
            other => Self { arch: Arch::Other(other.to_owned()), variants: &[""] },
        }
    }
}

/// One layer to fetch and unpack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What the registry calls it.
    pub digest: Digest,
    /// Bytes on the wire, as the manifest says.
    pub size: u64,
    /// Digest of its uncompressed tar.
    pub diff_id: Digest,
    /// Identifies it together with all layers below it (OCI image specification, "Layer ChainID").
    pub chain_id: Digest,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Fetch the manifest or index under this tag or digest; answer with [`Pull::manifest`].
    Manifest(String),
    /// Fetch this blob; answer with [`Pull::config`].
    Config(Digest),
    /// Fetch and unpack the layer with this index; answer with [`Pull::layer_done`].
    Layer(usize),
    /// Everything is there.
    Done,
}

/// A manifest that cannot be used, in words for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// It is no manifest, or one that contradicts itself.
    #[error("{what}: {why}")]
    Invalid {
        /// Which document.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// The bytes are others than their digest says.
    #[error("expected {expected}, received {found}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The index has no image for this board.
    #[error("no match for platform in manifest: this board is linux/{arch}")]
    Platform {
        /// The board's architecture.
        arch: String,
    },
}

/// The state of one pull.
#[derive(Debug, Clone)]
pub struct Pull {
    platform: Platform,
    wanted: String,
    depth: usize,
    manifest: Option<(Digest, Vec<u8>)>,
    config_digest: Option<Digest>,
    descriptors: Vec<(Digest, u64)>,
    config: Option<(Vec<u8>, ImageConfiguration)>,
    layers: Vec<Layer>,
    done: usize,
}

fn invalid(what: &str, why: impl ToString) -> PullError {
    PullError::Invalid { what: what.to_owned(), why: why.to_string() }
}

fn digest_of(descriptor: &Descriptor) -> Result<Digest, PullError> {
    let text = descriptor.digest().to_string();
    Digest::parse(&text).ok_or_else(|| invalid("descriptor", format!("unsupported digest {text:?}")))
}

impl Pull {
    /// Starts a pull of `reference`.
    #[must_use]
    pub fn new(reference: &Reference, platform: Platform) -> Self {
        Self::of(reference.selector(), platform)
    }

    /// Starts with the manifest under a tag or digest.
    #[must_use]
    pub fn of(wanted: String, platform: Platform) -> Self {
        Self {
            platform,
            wanted,
            depth: 0,
            manifest: None,
            config_digest: None,
            descriptors: Vec::new(),
            config: None,
            layers: Vec::new(),
            done: 0,
        }
    }

    /// What to do next; layers that `has_layer` knows by their chain id are passed over.
    pub fn next(&mut self, has_layer: impl Fn(&Digest) -> bool) -> Step {
        let Some(config) = &self.config_digest else { return Step::Manifest(self.wanted.clone()) };
        if self.config.is_none() {
            return Step::Config(config.clone());
        }
        while let Some(layer) = self.layers.get(self.done) {
            if !has_layer(&layer.chain_id) {
                return Step::Layer(self.done);
            }
            self.done += 1;
        }
        Step::Done
    }

    /// Takes the answer to [`Step::Manifest`]: an index leads to one more such step.
    ///
    /// # Errors
    /// Bytes that are not what was asked for, or no usable manifest.
    pub fn manifest(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        let found = Digest::of(bytes);
        if let Some(expected) = Digest::parse(&self.wanted)
            && expected != found
        {
            return Err(PullError::Digest { expected, found });
        }
        if let Some(index) = as_index(bytes) {
            self.depth += 1;
            if self.depth > INDEX_DEPTH_MAX {
                return Err(invalid("image index", "indexes are nested too deeply"));
            }
            self.wanted = self.choose(&index)?.to_string();
            return Ok(());
        }
        let manifest: ImageManifest =
            serde_json::from_slice(bytes).map_err(|error| invalid("image manifest", error))?;
        if manifest.layers().len() > LAYERS_MAX {
            return Err(invalid("image manifest", format!("more than {LAYERS_MAX} layers")));
        }
        self.config_digest = Some(digest_of(manifest.config())?);
        self.descriptors = manifest
            .layers()
            .iter()
            .map(|layer| Ok((digest_of(layer)?, layer.size())))
            .collect::<Result<_, PullError>>()?;
        self.manifest = Some((found, bytes.to_vec()));
        Ok(())
    }

    /// The best image of an index for this platform; one without any platform is taken as it is.
    fn choose(&self, index: &ImageIndex) -> Result<Digest, PullError> {
        let rank = |descriptor: &&Descriptor| match descriptor.platform() {
            None => Some(usize::MAX),
            Some(platform) if *platform.os() != Os::Linux || *platform.architecture() != self.platform.arch => None,
            Some(platform) => {
                let variant = platform.variant().as_deref().unwrap_or("");
                self.platform.variants.iter().position(|known| *known == variant)
            }
        };
        let best =
            index.manifests().iter().filter_map(|found| Some((rank(&found)?, found))).min_by_key(|(rank, _)| *rank);
        let (_, best) = best.ok_or_else(|| PullError::Platform { arch: self.platform.arch.to_string() })?;
        digest_of(best)
    }

    /// Takes the answer to [`Step::Config`].
    ///
    /// # Errors
    /// Bytes that are not what was asked for, or a configuration that does not fit the manifest.
    pub fn config(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        let found = Digest::of(bytes);
        if let Some(expected) = self.config_digest.clone().filter(|expected| *expected != found) {
            return Err(PullError::Digest { expected, found });
        }
        let config: ImageConfiguration =
            serde_json::from_slice(bytes).map_err(|error| invalid("image configuration", error))?;
        let diff_ids = config.rootfs().diff_ids();
        if diff_ids.len() != self.descriptors.len() {
            return Err(invalid("image configuration", "it lists another number of layers than the manifest"));
        }
        let mut chain: Option<Digest> = None;
        for (diff_id, (digest, size)) in diff_ids.iter().zip(&self.descriptors) {
            let diff_id = Digest::parse(diff_id)
                .ok_or_else(|| invalid("image configuration", format!("unsupported diff id {diff_id:?}")))?;
            let chain_id = match &chain {
                None => diff_id.clone(),
                Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            };
            chain = Some(chain_id.clone());
            self.layers.push(Layer { digest: digest.clone(), size: *size, diff_id, chain_id });
        }
        self.config = Some((bytes.to_vec(), config));
        Ok(())
    }

    /// All layers, lowest first; empty before the configuration has come.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Notes that the layer of the last [`Step::Layer`] is in place.
    pub fn layer_done(&mut self) {
        self.done += 1;
    }

    /// Manifest and configuration bytes of a pull that is [`Step::Done`], to be kept.
    #[must_use]
    pub fn documents(&self) -> Option<(&[u8], &[u8])> {
        Some((&self.manifest.as_ref()?.1, &self.config.as_ref()?.0))
    }
}

fn as_index(bytes: &[u8]) -> Option<ImageIndex> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    value.get("manifests")?;
    serde_json::from_value(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn descriptor(bytes: &[u8]) -> serde_json::Value {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
    }

    fn image(layers: &[&[u8]]) -> (Vec<u8>, Vec<u8>) {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let config =
            json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = config.to_string().into_bytes();
        let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer)).collect();
        let manifest = json!({"schemaVersion": 2, "config": descriptor(&config), "layers": layers});
        (manifest.to_string().into_bytes(), config)
    }

    fn platform(arch: Arch, variants: &'static [&'static str]) -> Platform {
        Platform { arch, variants }
    }

    #[test]
    fn an_index_leads_to_the_layers_of_this_platform() {
        let (manifest, config) = image(&[b"low", b"high"]);
        let mut arm = descriptor(&manifest);
        arm["platform"] = json!({"os": "linux", "architecture": "arm64", "variant": "v8"});
        let mut other = descriptor(b"other");
        other["platform"] = json!({"os": "linux", "architecture": "amd64"});
        let index = json!({"schemaVersion": 2, "manifests": [other, arm]}).to_string();
        let reference = Reference::parse("localhost:5000/x:1").unwrap();
        let mut pull = Pull::new(&reference, platform(Arch::ARM64, &["v8", ""]));
        assert_eq!(pull.next(|_| false), Step::Manifest("1".into()));
        pull.manifest(index.as_bytes()).unwrap();
        assert_eq!(pull.next(|_| false), Step::Manifest(Digest::of(&manifest).to_string()));
        pull.manifest(&manifest).unwrap();
        assert_eq!(pull.next(|_| false), Step::Config(Digest::of(&config)));
        pull.config(&config).unwrap();
        assert_eq!(pull.next(|_| false), Step::Layer(0));
        let low = pull.layers()[0].chain_id.clone();
        assert_eq!(pull.next(|chain| *chain == low), Step::Layer(1));
        pull.layer_done();
        assert_eq!(pull.next(|_| false), Step::Done);
    }

    #[test]
    fn an_index_without_this_platform_says_so() {
        let mut other = descriptor(b"x");
        other["platform"] = json!({"os": "windows", "architecture": "amd64"});
        let index = json!({"schemaVersion": 2, "manifests": [other]}).to_string();
        let mut pull = Pull::of("1".into(), platform(Arch::ARM, &["v7"]));
        assert!(matches!(pull.manifest(index.as_bytes()), Err(PullError::Platform { .. })));
    }

    #[test]
    fn the_best_variant_is_chosen() {
        let manifests: Vec<_> = ["v5", "v7", "v6"]
            .iter()
            .map(|variant| {
                let mut found = descriptor(variant.as_bytes());
                found["platform"] = json!({"os": "linux", "architecture": "arm", "variant": variant});
                found
            })
            .collect();
        let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        let mut pull = Pull::of("1".into(), platform(Arch::ARM, &["v7", "v6", "v5"]));
        pull.manifest(index.as_bytes()).unwrap();
        assert_eq!(pull.next(|_| false), Step::Manifest(Digest::of(b"v7").to_string()));
    }

    #[test]
    fn substituted_documents_are_refused() {
        let (manifest, _) = image(&[b"a"]);
        let mut pull = Pull::of(Digest::of(b"something else").to_string(), Platform::host());
        assert!(matches!(pull.manifest(&manifest), Err(PullError::Digest { .. })));
        let mut pull = Pull::of("1".into(), Platform::host());
        pull.manifest(&manifest).unwrap();
        assert!(matches!(pull.config(b"{}"), Err(PullError::Digest { .. })));
    }
}
