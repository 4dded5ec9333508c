//! Pure: the authority that signs, those that came before it, and what each still vouches for.
//!
//! ```text
//!  former/0001.crt --signs--> cross/0001.crt      the key of the authority that followed, signed by the former one:
//!  former/0002.crt --signs--> cross/0002.crt      a board that slept through it follows the chain from what it knows
//!  ca.crt, ca.key             signs everything
//! ```
//! At a rollover the former key signs its successor and is destroyed: from then on all that is new is signed by the
//! successor, and both are trusted. A former authority that is retired vouches for nothing but that a board holds the key
//! that was signed for it, so that the board may have the same signed anew.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::authority::{Authority, pin_of};
use super::files::Files;
use super::key::{hex, pem, sha256};
use super::tls::{Vouched, provider, text};
use super::{PkiError, TIME_FLOOR};

/// The names of an authority's files.
pub(super) const CERTIFICATE: &str = "pki/ca.crt";
pub(super) const KEY: &str = "pki/ca.key";
/// How many of the former authorities are retired, in decimal digits.
const RETIRED: &str = "pki/retired";

/// An authority that signs no more.
#[derive(Debug)]
struct Former {
    certificate: CertificateDer<'static>,
    /// The key of the one that followed it, signed by it.
    successor: CertificateDer<'static>,
}

type Verifier = Arc<dyn ClientCertVerifier>;

/// All authorities that a cluster ever had.
#[derive(Debug)]
pub struct Authorities {
    /// The one that signs.
    pub newest: Authority,
    /// Oldest first.
    former: Vec<Former>,
    retired: usize,
    /// Asked for with every answer to a board.
    digest: Option<String>,
    trusting: Verifier,
    remembering: Option<Verifier>,
}

impl Authorities {
    /// As the files of `pki` say.
    pub(super) fn from_files(files: &Files) -> Result<Authorities, PkiError> {
        let get = |name: &str| files.get(name).ok_or_else(|| PkiError::Key(format!("there is no {name}")));
        let newest = Authority::from_pem(get(KEY)?, get(CERTIFICATE)?)?;
        let mut former = Vec::new();
        while let Some(text) = files.get(&former_name(former.len() + 1)) {
            let successor = certificate(get(&cross_name(former.len() + 1))?)?;
            former.push(Former { certificate: certificate(text)?, successor });
        }
        let retired = files.get(RETIRED).and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        let retired = former.len().min(retired);
        let (gone, trusted) = former.split_at(retired);
        let roots = |those: &[Former]| those.iter().map(|one| one.certificate.clone()).collect::<Vec<_>>();
        let trusting = verifier(&[vec![newest.certificate().clone()], roots(trusted)].concat())?;
        let remembering = if gone.is_empty() { None } else { Some(verifier(&roots(gone))?) };
        let mut authorities = Authorities { newest, former, retired, digest: None, trusting, remembering };
        let all: Vec<u8> = authorities.trusted().flat_map(|one| one.to_vec()).collect();
        authorities.digest = (!authorities.former.is_empty()).then(|| hex(&sha256(&all)[..8]));
        Ok(authorities)
    }

    /// The files with a new authority, which the present one signs before its key goes. `now` is seconds since 1970.
    pub(super) fn rolled_over(&self, files: &Files, now: i64) -> Result<Files, PkiError> {
        let next = Authority::make(now)?;
        let number = self.former.len() + 1;
        let mut files = files.clone();
        files.insert(former_name(number), self.newest.certificate_pem().to_owned());
        files.insert(cross_name(number), pem("CERTIFICATE", &self.newest.signs(&next)?));
        files.insert(CERTIFICATE.to_owned(), next.certificate_pem().to_owned());
        files.insert(KEY.to_owned(), next.key_pem());
        Ok(files)
    }

    /// The files with every former authority retired.
    pub(super) fn only_the_newest(&self, files: &Files) -> Files {
        let mut files = files.clone();
        files.insert(RETIRED.to_owned(), format!("{}\n", self.former.len()));
        files
    }

    /// Those that are trusted, the one that signs first.
    pub fn trusted(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        let former = self.former[self.retired..].iter().rev();
        std::iter::once(self.newest.certificate()).chain(former.map(|one| &one.certificate))
    }

    /// The same as PEM, public.
    pub fn bundle_pem(&self) -> String {
        self.trusted().map(|one| pem("CERTIFICATE", one)).collect()
    }

    /// What tells one set of trusted authorities from another: sixteen hexadecimal digits of the SHA-256 of their DER. None
    /// while a cluster has its first one, so that it costs nothing.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// What follows a leaf on the wire: the way back from the newest to the first.
    pub(super) fn chain(&self) -> impl Iterator<Item = CertificateDer<'static>> {
        let successors = self.former.iter().rev().map(|one| &one.successor);
        let first = self.former.first().map_or(self.newest.certificate(), |one| &one.certificate);
        successors.chain([first]).cloned()
    }

    /// The pins that boards may know the cluster by, the newest first.
    pub fn pins(&self) -> Vec<String> {
        let former = self.former.iter().rev().filter_map(|one| pin_of(&one.certificate));
        std::iter::once(self.newest.pin()).chain(former).collect()
    }

    /// Each of them: its pin, when it ends (seconds since 1970) and whether it is trusted; the newest first.
    pub(super) fn ages(&self) -> Vec<(String, i64, bool)> {
        let describe = |one: &CertificateDer<'_>, trusted| Some((pin_of(one)?, end_of(one)?, trusted));
        let former = self.former.iter().enumerate().rev();
        let former = former.map(|(index, one)| describe(&one.certificate, index >= self.retired));
        std::iter::once(describe(self.newest.certificate(), true)).chain(former).flatten().collect()
    }

    /// Judges a client's chain, leaf first: what it was worth while it was good. Whether it still is, is for the caller to
    /// say, by [`Vouched::not_after`]; that our clock stands before its beginning only says that our clock is behind. What
    /// a retired authority signed ended long ago. The error is for the log.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: i64) -> Result<Vouched, String> {
        let (leaf, rest) = chain.split_first().ok_or("no certificate")?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
        let (begin, mut end) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        if begin > end {
            return Err("the certificate is never valid".into());
        }
        let seconds = u64::try_from(now.max(TIME_FLOOR).clamp(begin, end)).unwrap_or_default();
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        if let Err(error) = self.trusting.verify_client_cert(leaf, rest, time) {
            let remembering = self.remembering.as_ref().ok_or_else(|| error.to_string())?;
            remembering.verify_client_cert(leaf, rest, time).map_err(|_| error.to_string())?;
            end = i64::MIN;
        }
        let name = parsed.subject().iter_common_name().last().map(text).transpose()?.unwrap_or_default();
        if name.is_empty() {
            return Err("the certificate names nobody".into());
        }
        Ok(Vouched {
            name,
            groups: parsed.subject().iter_organization().map(text).collect::<Result<_, _>>()?,
            key_hash: sha256(parsed.public_key().raw),
            fingerprint: sha256(leaf),
            not_after: end,
        })
    }

    /// Those that are trusted, as a TLS library takes them.
    pub(super) fn roots(&self) -> Result<RootCertStore, PkiError> {
        store(self.trusted())
    }
}

fn former_name(number: usize) -> String {
    format!("pki/former/{number:04}.crt")
}

fn cross_name(number: usize) -> String {
    format!("pki/cross/{number:04}.crt")
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| PkiError::Certificate(error.to_string()))
}

/// When a certificate ends, in seconds since 1970.
pub(super) fn end_of(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

fn store<'a>(those: impl Iterator<Item = &'a CertificateDer<'static>>) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    for one in those {
        roots.add(one.clone()).map_err(PkiError::Tls)?;
    }
    Ok(roots)
}

fn verifier(roots: &[CertificateDer<'static>]) -> Result<Verifier, PkiError> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store(roots.iter())?), provider());
    builder.build().map_err(|error| PkiError::Certificate(error.to_string()))
}
