//! Shell: from a one-time token and the pin of the cluster's key to certificates, and their rotation.
//!
//! ```text
//!  token + pin -> Look for the authority (cluster-info, or the chain that the server shows) -> matches the pin?
//!     -> key made on this board (0600) -> CSR as system:bootstrappers -> watch -> client certificate saved
//!     -> CSR for the serving certificate as system:node:<name> -> both rotated at 70-90 % of their life
//! ```
//! The cluster's authorities may change meanwhile: a board follows them ([`follow_authorities`]), and has both anew.
//! Once a client certificate is on the board nothing here is needed to start: see [`saved`].

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use tracing::info;

use crate::link::{Clock, Connection, Endpoint, Identity, KeyPin, Link, LinkError, Look, Trust, spki_pin};
use crate::pods::time::rfc3339;

mod authorities;
pub mod bundle;
mod certificate;
mod files;
mod request;
mod rotate;

pub use authorities::{Authorities, follow_authorities};
pub use certificate::Kept;
pub use files::bundle as read_bundle;
pub use rotate::{Rotation, rotate_client, rotate_serving};

/// What a board needs to join.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// Where certificates are kept, `<data-dir>/agent/pki`.
    pub dir: PathBuf,
    /// API servers of the cluster; none: they are looked for on the link.
    pub servers: Vec<Endpoint>,
    /// The node's name.
    pub node_name: String,
    /// `abcdef.0123456789abcdef`; not needed once joined.
    pub token: Option<String>,
    /// Until when the token is good, where that is known, in Unix milliseconds.
    pub token_until_ms: Option<i64>,
    /// The pins of the cluster's authority; not needed once joined.
    pub pins: Vec<KeyPin>,
}

/// A board that is part of the cluster.
#[derive(Clone)]
pub struct Joined {
    /// The authorities of the cluster (DER).
    pub authority: Vec<CertificateDer<'static>>,
    /// The connection, with the client certificate.
    pub connection: Arc<Connection>,
    /// When the client certificate is to be renewed.
    pub client: Kept,
}

/// Why a board is not in the cluster; Display says what to do.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Neither a certificate nor a token.
    #[error(
        "this board has no certificate and no token: give it --token and --ca-pin as printed by `bramble token create`, or --bundle"
    )]
    NoToken,
    /// The token is not in the form of a token.
    #[error("the token is malformed, it looks like abcdef.0123456789abcdef")]
    MalformedToken,
    /// The server is somebody else.
    #[error("{server} does not hold the pinned key {pins}: wrong server, wrong pin, or somebody in between")]
    WrongAuthority {
        /// The server that answered.
        server: String,
        /// What was expected.
        pins: String,
    },
    /// The token is unknown to the cluster.
    #[error("the cluster does not accept the token (expired or used?): make a new one with `bramble token create`")]
    TokenRefused,
    /// The token is unknown to the cluster, which is no wonder.
    #[error("the join bundle expired at {0}: make a new one with `bramble token create --bundle FILE`")]
    BundleExpired(String),
    /// Somebody denied the request.
    #[error("the certificate request {name} was denied: {message}")]
    Denied {
        /// The CertificateSigningRequest.
        name: String,
        /// Its condition.
        message: String,
    },
    /// The signer failed, or returned something else.
    #[error("the certificate request {name} failed: {message}")]
    Failed {
        /// The CertificateSigningRequest.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// The network or the server.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A file on the board.
    #[error("{path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// What is kept on the board cannot be used.
    #[error("{0}")]
    Unusable(String),
}

impl JoinError {
    /// True when coming again with the same token may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Link(error) => !error.is_final(),
            Self::Failed { .. } => true,
            _ => false,
        }
    }
}

/// The credentials of an earlier run, without asking anybody.
///
/// # Errors
/// Files that are there but cannot be used.
pub fn saved(options: &JoinOptions, clock: &Arc<Clock>) -> Result<Option<Joined>, JoinError> {
    let (Some(authority), Some(kept)) = (files::authority(&options.dir)?, files::client(&options.dir)?) else {
        return Ok(None);
    };
    joined(options, clock, authority, kept).map(Some)
}

/// One attempt to join by token; the caller repeats it while [`JoinError::is_transient`].
///
/// # Errors
/// Any [`JoinError`].
pub async fn join(options: &JoinOptions, clock: &Arc<Clock>) -> Result<Joined, JoinError> {
    let token = options.token.clone().ok_or(JoinError::NoToken)?;
    if !well_formed(&token) {
        return Err(JoinError::MalformedToken);
    }
    let authority = find_authority(options, clock).await?;
    let trust = Trust::Pinned(authority.clone());
    let connection = connection(options, &trust, Identity::Bearer(token), clock)?;
    let link = Link::new(Arc::new(connection));
    let pending = options.dir.join("client.pending.key");
    let key = files::pending_key(&pending)?;
    info!(node = %options.node_name, "asking for a client certificate");
    let wanted = request::Wanted::client(&options.node_name, None);
    let chain = request::obtain(&link, &key, &wanted).await.map_err(|error| match error {
        // The server's clock decides, not the board's, which may never have been set.
        JoinError::Link(error) if error.is_unauthorized() => match options.token_until_ms {
            Some(until) if until <= clock.now_ms() => JoinError::BundleExpired(rfc3339(until)),
            _ => JoinError::TokenRefused,
        },
        error => error,
    })?;
    files::save_authority(&options.dir, &authority)?;
    let kept = files::save_client(&options.dir, &chain, &key, clock.trusted_s())?;
    files::forget(&pending);
    info!(until = %kept.until(), "joined the cluster");
    joined(options, clock, authority, kept)
}

fn joined(
    options: &JoinOptions,
    clock: &Arc<Clock>,
    authority: Vec<CertificateDer<'static>>,
    client: Kept,
) -> Result<Joined, JoinError> {
    let trust = Trust::Pinned(authority.clone());
    let connection = connection(options, &trust, client.identity(), clock)?;
    Ok(Joined { authority, connection: Arc::new(connection), client })
}

fn connection(
    options: &JoinOptions,
    trust: &Trust,
    identity: Identity,
    clock: &Arc<Clock>,
) -> Result<Connection, JoinError> {
    let connection = Connection::new(options.servers.clone(), trust, identity, Arc::clone(clock));
    let connection = connection.map_err(JoinError::Unusable)?;
    if !options.servers.is_empty() {
        return Ok(connection);
    }
    let known = match trust {
        Trust::Pinned(authorities) => {
            authorities.iter().filter_map(spki_pin).filter_map(|pin| KeyPin::parse(&pin)).collect()
        }
        Trust::Look(_) => options.pins.clone(),
    };
    Ok(connection.or_found(known))
}

fn well_formed(token: &str) -> bool {
    let lower = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    token.split_once('.').is_some_and(|(id, secret)| id.len() == 6 && secret.len() == 16 && lower(id) && lower(secret))
}

/// Looks at the server without trusting it, and keeps only the authority whose key is pinned: from the public
/// ConfigMap `cluster-info`, or from the chain. Nothing else of that connection is used.
async fn find_authority(options: &JoinOptions, clock: &Arc<Clock>) -> Result<Vec<CertificateDer<'static>>, JoinError> {
    let look = Look::new();
    let connection = Arc::new(connection(options, &Trust::Look(look.clone()), Identity::Anonymous, clock)?);
    let link = Link::new(connection.clone());
    let answer = link.get("/api/v1/namespaces/kube-public/configmaps/cluster-info").await;
    let mut candidates = match &answer {
        Ok(config_map) => request::authorities_of_cluster_info(config_map),
        Err(LinkError::Unreachable(_)) if look.chain().is_empty() => return Err(answer.expect_err("matched").into()),
        Err(error) => {
            info!(%error, "no cluster-info, looking at the chain only");
            Vec::new()
        }
    };
    candidates.extend(look.chain());
    let pinned: Vec<_> = candidates.into_iter().filter(|one| options.pins.iter().any(|pin| pin.matches(one))).collect();
    match pinned.into_iter().next() {
        Some(authority) => Ok(vec![authority]),
        None => Err(JoinError::WrongAuthority {
            server: connection.server(),
            pins: options.pins.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        }),
    }
}

/// The names that a serving certificate holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServingNames {
    /// The node's name and host name.
    pub dns: Vec<String>,
    /// The node's addresses.
    pub ips: Vec<IpAddr>,
}

/// Where the parts of a board's identity lie below the agent's data directory.
#[must_use]
pub fn dir_below(agent_dir: &Path) -> PathBuf {
    agent_dir.join("pki")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_six_and_sixteen_characters() {
        assert!(well_formed("abcdef.0123456789abcdef"));
        for bad in ["abcdef", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcde", ""] {
            assert!(!well_formed(bad), "{bad}");
        }
    }
}
