//! Shell: brings images onto the board: pulls over the distribution API, imports from files, names, removal.
//!
//! `bramble_runtime` owns the bytes and decides what to fetch next (`pull::Pull`); here is only the transport.

pub mod challenge;
pub mod credential;
pub mod mirrors;
mod registries;
mod registry;
mod stream;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bramble_runtime::image::{Image, ImageError, Images as Store};
use bramble_runtime::pull::{Platform, Pull, Step};
use bramble_runtime::reference::Reference;
use tokio::sync::Semaphore;

use crate::pods::{ImageConfig, ImageRef, ImageRequest, Images, NodeImage, Pending, PullError, PullPolicy};
use mirrors::Endpoint;
pub use registries::{AuthorityFile, Registries};
use registry::{FetchError, Registry};

/// Two pulls at once hide one registry's latency behind the other's unpacking; more would only share one card.
const PULLS_AT_ONCE: usize = 2;

/// The images of this board.
pub struct BoardImages {
    store: Arc<Store>,
    registries: Arc<Registries>,
    slots: Semaphore,
}

impl BoardImages {
    /// Opens the store below `<data-dir>/images`.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(data_dir: &Path, registries: Registries) -> Result<Self, ImageError> {
        let store = Arc::new(Store::open(data_dir.join("images"))?);
        Ok(Self { store, registries: Arc::new(registries), slots: Semaphore::new(PULLS_AT_ONCE) })
    }

    /// The store itself, for who mounts containers from it.
    #[must_use]
    pub fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    /// Takes the images of an archive or layout on this board.
    ///
    /// # Errors
    /// As [`bramble_runtime::archive::import`].
    pub async fn import(&self, path: PathBuf, name: Option<String>) -> Result<Vec<Image>, ImageError> {
        self.blocking(move |store| bramble_runtime::archive::import(store, &path, name.as_deref(), now())).await
    }

    /// Every whole image.
    ///
    /// # Errors
    /// The disk's.
    pub async fn all(&self) -> Result<Vec<Image>, ImageError> {
        self.blocking(Store::list).await
    }

    /// Forgets a name, then whatever nothing needs any more.
    ///
    /// # Errors
    /// The disk's.
    pub async fn remove(&self, name: String) -> Result<bool, ImageError> {
        // A sweep must not run beside a pull: it would take layers that have no name yet.
        let _all = self.slots.acquire_many(u32::try_from(PULLS_AT_ONCE).unwrap_or(1)).await;
        self.blocking(move |store| {
            let removed = store.remove(&name)?;
            store.sweep()?;
            Ok(removed)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    async fn find(&self, name: String) -> Option<Image> {
        self.blocking(move |store| store.get(&name)).await.ok().flatten()
    }

    async fn ensure(&self, request: &ImageRequest) -> Result<ImageRef, PullError> {
        let reference =
            Reference::parse(&request.reference).map_err(|error| PullError::InvalidName(invalid(request, &error)))?;
        if request.policy != PullPolicy::Always
            && let Some(image) = self.find(reference.to_string()).await
        {
            return Ok(describe(&image, &reference, false));
        }
        if request.policy == PullPolicy::Never {
            return Err(PullError::NeverPull(request.reference.clone()));
        }
        let _slot = self.slots.acquire().await;
        let mut passed_over = String::new();
        for mirror in self.registries.mirrors.of(&reference.registry) {
            match self.pull_from(&mirror, request, &reference).await {
                Ok((image, pulled)) => return Ok(describe(&image, &reference, pulled)),
                Err(error) => {
                    tracing::info!(%reference, mirror = mirror.host, error = chain(&error), "the mirror is passed over");
                    passed_over.push_str(&format!("; its mirror {}: {}", mirror.host, chain(&error)));
                }
            }
        }
        let itself = self.registries.itself(&reference.registry);
        let result = self.pull_from(&itself, request, &reference).await;
        let (image, pulled) = result.map_err(|error| failure(&reference, error, &passed_over))?;
        Ok(describe(&image, &reference, pulled))
    }

    /// From one place, with what the pod has for it: a registry's secret is never shown to its mirror.
    async fn pull_from(
        &self,
        endpoint: &Endpoint,
        request: &ImageRequest,
        reference: &Reference,
    ) -> Result<(Image, bool), FetchError> {
        let mut asked = reference.clone();
        if endpoint.instead_of.is_some() {
            asked.registry.clone_from(&endpoint.host);
        }
        let credentials = credential::matching(&request.credentials, &asked);
        // A wrong secret must not hide a public image, and the right one may be the second: upstream tries each in turn.
        let mut result = Err(FetchError::Denied(String::new()));
        for credential in credentials.into_iter().map(Some).chain([None]) {
            let registries = Arc::clone(&self.registries);
            let mut registry = Registry::new(registries, endpoint.clone(), reference.clone(), credential.cloned());
            result = self.pull(reference, &mut registry).await;
            if !matches!(result, Err(FetchError::Denied(_))) {
                break;
            }
        }
        result
    }

    /// One attempt; also says whether a layer was fetched.
    async fn pull(&self, reference: &Reference, registry: &mut Registry) -> Result<(Image, bool), FetchError> {
        let mut pull = Pull::new(reference, Platform::host());
        let mut fetched = false;
        loop {
            match pull.next(|chain_id| self.store.has_layer(chain_id)) {
                Step::Manifest(selector) => {
                    let manifest = registry.manifest(&selector).await?;
                    pull.manifest(&manifest).map_err(ImageError::from)?;
                }
                Step::Config(digest) => {
                    let config = registry.document(&digest).await?;
                    pull.config(&config).map_err(ImageError::from)?;
                }
                Step::Layer(index) => {
                    self.layer(&pull, index, registry).await?;
                    pull.layer_done();
                    fetched = true;
                }
                Step::Done => break,
            }
        }
        let reference = reference.clone();
        let image = self.blocking(move |store| store.tag(&reference, &pull, now())).await?;
        Ok((image, fetched))
    }

    async fn layer(&self, pull: &Pull, index: usize, registry: &mut Registry) -> Result<(), FetchError> {
        let (feed, wire) = stream::pipe();
        let (layers, layer) = (pull.layers().to_vec(), pull.layers()[index].clone());
        tracing::debug!(digest = %layer.digest, bytes = layer.size, "layer");
        let unpacking = self.blocking(move |store| store.add_layer(&layers, index, wire));
        let (fed, unpacked) = tokio::join!(registry.layer(&layer, feed), unpacking);
        // When the transport broke, the unpacking failed because of it: the first cause is the one to tell.
        fed?;
        unpacked?;
        Ok(())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

fn invalid(request: &ImageRequest, error: &bramble_runtime::reference::ReferenceError) -> String {
    format!("Failed to apply default image tag {:?}: {error}", request.reference)
}

fn failure(reference: &Reference, error: FetchError, mirrors: &str) -> PullError {
    let message = format!("failed to pull and unpack image \"{reference}\": {}{mirrors}", chain(&error));
    match error {
        FetchError::Unreachable { .. } => PullError::RegistryUnavailable(message),
        _ => PullError::Failed(message),
    }
}

/// An error with all its causes, each said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn describe(image: &Image, reference: &Reference, pulled: bool) -> ImageRef {
    let config = image.config.config().clone().unwrap_or_default();
    ImageRef {
        id: image.id.to_string(),
        repo_digest: Some(format!("{}@{}", reference.name(), image.manifest)),
        size: image.size,
        pulled,
        config: ImageConfig {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            user: config.user().clone().unwrap_or_default(),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            stop_signal: config.stop_signal().clone(),
            volumes: config.volumes().clone().unwrap_or_default(),
        },
    }
}

impl Images for BoardImages {
    fn ensure<'a>(&'a self, request: &'a ImageRequest) -> Pending<'a, Result<ImageRef, PullError>> {
        Box::pin(self.ensure(request))
    }

    fn status<'a>(&'a self, reference: &'a str) -> Pending<'a, Option<ImageRef>> {
        Box::pin(async move {
            let parsed = Reference::parse(reference).ok()?;
            let image = self.find(reference.to_owned()).await?;
            Some(describe(&image, &parsed, false))
        })
    }

    fn list(&self) -> Pending<'_, Vec<NodeImage>> {
        Box::pin(async move {
            let images = self.all().await.unwrap_or_default();
            images.into_iter().map(|image| NodeImage { names: names(&image), size: image.size }).collect()
        })
    }
}

/// Tags and repo digests, as a node's status shows them.
fn names(image: &Image) -> Vec<String> {
    let mut names: Vec<String> = image
        .references
        .iter()
        .filter_map(|name| Reference::parse(name).ok())
        .map(|reference| format!("{}@{}", reference.name(), image.manifest))
        .collect();
    names.dedup();
    names.extend(image.references.iter().cloned());
    names
}
