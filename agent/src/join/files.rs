//! Shell: certificates and keys on the board, 0600, written whole or not at all.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::bundle::{self, Bundle};
use super::certificate::{ISSUED, Kept};
use super::{JoinError, request};

const AUTHORITY: &str = "ca.crt";
const CLIENT: &str = "client.pem";
const SERVING: &str = "serving.pem";

/// The join bundle in a file.
///
/// # Errors
/// What the system says of it, or why it is none ([`bundle::BundleError`]).
pub fn bundle(path: &Path) -> io::Result<Bundle> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(bundle::FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    bundle::parse(&bytes).map_err(io::Error::other)
}

pub(super) fn authority(dir: &Path) -> Result<Option<Vec<CertificateDer<'static>>>, JoinError> {
    let path = dir.join(AUTHORITY);
    let Some(pem) = read(&path)? else { return Ok(None) };
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match parsed {
        Ok(all) if !all.is_empty() => Ok(Some(all)),
        _ => Err(JoinError::Unusable(format!("{}: holds no certificate", path.display()))),
    }
}

pub(super) fn client(dir: &Path) -> Result<Option<Kept>, JoinError> {
    kept(&dir.join(CLIENT))
}

pub(super) fn serving(dir: &Path) -> Result<Option<Kept>, JoinError> {
    kept(&dir.join(SERVING))
}

fn kept(path: &Path) -> Result<Option<Kept>, JoinError> {
    let Some(pem) = read(path)? else { return Ok(None) };
    Kept::from_pem(&pem).map(Some).map_err(|error| JoinError::Unusable(format!("{}: {error}", path.display())))
}

pub(super) fn save_authority(dir: &Path, authority: &[CertificateDer<'static>]) -> Result<(), JoinError> {
    let pem: String = authority.iter().map(|one| request::pem("CERTIFICATE", one)).collect();
    write(&dir.join(AUTHORITY), pem.as_bytes())
}

/// `issued_s` is trusted time.
pub(super) fn save_client(dir: &Path, chain: &str, key: &KeyPair, issued_s: Option<u64>) -> Result<Kept, JoinError> {
    save(&dir.join(CLIENT), chain, key, issued_s)
}

pub(super) fn save_serving(dir: &Path, chain: &str, key: &KeyPair, issued_s: Option<u64>) -> Result<Kept, JoinError> {
    save(&dir.join(SERVING), chain, key, issued_s)
}

fn save(path: &Path, chain: &str, key: &KeyPair, issued_s: Option<u64>) -> Result<Kept, JoinError> {
    let issued = issued_s.map_or_else(String::new, |issued_s| format!("{ISSUED}{issued_s}\n"));
    let pem = format!("{issued}{}\n{}", chain.trim_end(), key.serialize_pem());
    let kept =
        Kept::from_pem(pem.as_bytes()).map_err(|error| JoinError::Unusable(format!("the signer's answer: {error}")))?;
    write(path, pem.as_bytes())?;
    Ok(kept)
}

/// The key of a request that is under way, so that a restart asks for the same certificate again.
pub(super) fn pending_key(path: &Path) -> Result<KeyPair, JoinError> {
    if let Some(pem) = read(path)?
        && let Ok(key) = KeyPair::from_pem(&String::from_utf8_lossy(&pem))
    {
        return Ok(key);
    }
    let key = new_key()?;
    write(path, key.serialize_pem().as_bytes())?;
    Ok(key)
}

pub(super) fn new_key() -> Result<KeyPair, JoinError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|error| JoinError::Unusable(format!("making a key: {error}")))
}

pub(super) fn forget(path: &Path) {
    // A pending key that stays behind is only used for the next request.
    let _ = fs::remove_file(path);
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, JoinError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(JoinError::File { path: path.to_owned(), error }),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), JoinError> {
    write_private(path, bytes).map_err(|error| JoinError::File { path: path.to_owned(), error })
}

/// Writes a file that only root reads, durable and whole: temporary file, fsync, rename, fsync of the directory.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(&dir)?.sync_all()
}
