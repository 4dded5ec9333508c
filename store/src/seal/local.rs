//! Shell: data keys wrapped with a key that somebody keeps in a file.

use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use ring::rand::{SecureRandom, SystemRandom};

use super::{KeyService, KeyServiceError};

/// How a key of the file wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalAlgorithm {
    /// AES-GCM, with a key of 16 or 32 bytes.
    AesGcm,
    /// ChaCha20-Poly1305, with a key of 32 bytes.
    ChaCha20Poly1305,
}

/// A key from a file. It wraps a few data keys in its life, so random nonces never meet.
pub struct LocalKey {
    name: String,
    key: LessSafeKey,
}

/// What the wrapped bytes are bound to.
const BOUND: &[u8] = b"bramble data key";

impl LocalKey {
    /// None where the key has no length that the algorithm knows.
    pub fn new(name: &str, algorithm: LocalAlgorithm, key: &[u8]) -> Option<LocalKey> {
        let algorithm: &'static Algorithm = match (algorithm, key.len()) {
            (LocalAlgorithm::AesGcm, 16) => &AES_128_GCM,
            (LocalAlgorithm::AesGcm, 32) => &AES_256_GCM,
            (LocalAlgorithm::ChaCha20Poly1305, 32) => &CHACHA20_POLY1305,
            _ => return None,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?);
        Some(LocalKey { name: name.to_owned(), key })
    }
}

impl KeyService for LocalKey {
    fn name(&self) -> &str {
        &self.name
    }

    fn wrap(&self, key: &[u8]) -> Result<Vec<u8>, KeyServiceError> {
        let unavailable = |_| KeyServiceError::Unavailable("no random bytes".into());
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(unavailable)?;
        let mut sealed = key.to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(unique, Aad::from(BOUND), &mut sealed).map_err(unavailable)?;
        Ok([&nonce, &*sealed].concat())
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Vec<u8>, KeyServiceError> {
        let (nonce, sealed) = wrapped.split_at_checked(NONCE_LEN).ok_or(KeyServiceError::Wrong)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| KeyServiceError::Wrong)?;
        let mut sealed = sealed.to_vec();
        let plain = self.key.open_in_place(nonce, Aad::from(BOUND), &mut sealed);
        plain.map(|plain| plain.to_vec()).map_err(|_| KeyServiceError::Wrong)
    }
}
