//! Pure: one record sealed with a key derived for it alone.

use bytes::Bytes;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk};

use crate::record::Revision;

/// Length of a data key.
pub(super) const DATA_KEY_BYTES: usize = 32;
/// Random bytes from which a record's key is derived: no two of 2^64 records share one.
pub(super) const SALT_BYTES: usize = 16;
const ID_BYTES: usize = 8;

/// Seals records with ChaCha20-Poly1305 (RFC 8439), which small boards without AES instructions do quickly and in
/// constant time, under keys expanded by HKDF (RFC 5869).
pub(super) struct DataKey(Prk);

impl DataKey {
    /// None where the length is wrong.
    pub(super) fn new(key: &[u8]) -> Option<DataKey> {
        (key.len() == DATA_KEY_BYTES).then(|| DataKey(Prk::new_less_safe(HKDF_SHA256, key)))
    }

    fn record_key(&self, salt: &[u8]) -> Option<LessSafeKey> {
        let info = [b"bramble record".as_slice(), salt];
        let key = self.0.expand(&info, &CHACHA20_POLY1305).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(key)))
    }

    /// `data key number, salt, sealed value and tag`. None never happens but where the value is of gigabytes.
    pub(super) fn seal(
        &self,
        id: u64,
        salt: &[u8; SALT_BYTES],
        key: &str,
        at: Revision,
        value: &[u8],
    ) -> Option<Vec<u8>> {
        let mut body = Vec::with_capacity(ID_BYTES + SALT_BYTES + value.len() + CHACHA20_POLY1305.tag_len());
        body.extend_from_slice(&id.to_le_bytes());
        body.extend_from_slice(salt);
        let begin = body.len();
        body.extend_from_slice(value);
        let cipher = self.record_key(salt)?;
        let tag = cipher.seal_in_place_separate_tag(nonce(), Aad::from(bound(key, at)), &mut body[begin..]).ok()?;
        body.extend_from_slice(tag.as_ref());
        Some(body)
    }

    /// The inverse; none where anything was changed.
    pub(super) fn open(&self, key: &str, at: Revision, body: &[u8]) -> Option<Bytes> {
        let salt = body.get(ID_BYTES..ID_BYTES + SALT_BYTES)?;
        let mut value = body.get(ID_BYTES + SALT_BYTES..)?.to_vec();
        let len = self.record_key(salt)?.open_in_place(nonce(), Aad::from(bound(key, at)), &mut value).ok()?.len();
        value.truncate(len);
        Some(value.into())
    }
}

/// The number of the data key that sealed a body.
pub(super) fn id(body: &[u8]) -> Option<u64> {
    body.first_chunk::<ID_BYTES>().map(|bytes| u64::from_le_bytes(*bytes))
}

/// A record's key seals once.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn bound(key: &str, at: Revision) -> Vec<u8> {
    [&at.0.to_le_bytes(), key.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_found_out() {
        let key = DataKey::new(&[3; DATA_KEY_BYTES]).unwrap();
        let body = key.seal(9, &[5; SALT_BYTES], "secrets/a", Revision(4), b"value").unwrap();
        assert_eq!(id(&body), Some(9));
        assert_eq!(key.open("secrets/a", Revision(4), &body).as_deref(), Some(&b"value"[..]));
        for bit in ID_BYTES * 8..body.len() * 8 {
            let mut flipped = body.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open("secrets/a", Revision(4), &flipped), None, "bit {bit}");
        }
        assert_eq!(key.open("secrets/a", Revision(4), &body[..20]), None);
    }
}
