//! Pure: the messages of `k8s.io/kms/apis/v2/api.proto`, and gRPC's frame around them.

use bytes::Bytes;

const LEN: u8 = 2;

/// gRPC's frame: not compressed, length, message.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], &len[..], message].concat().into()
}

/// The one message of an answer.
pub(super) fn unframe(body: Bytes) -> Option<Bytes> {
    let (head, rest) = body.split_at_checked(5)?;
    let len = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
    (head[0] == 0 && rest.len() == len).then(|| body.slice(5..))
}

fn put(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    if value.is_empty() {
        return;
    }
    out.push(field << 3 | LEN);
    let mut len = value.len();
    while len > 0x7f {
        out.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(value);
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The length-delimited fields of a message; others are skipped.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let skip = match tag & 7 {
            0 => {
                varint(&mut bytes)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, rest) = bytes.split_at_checked(skip)?;
        bytes = rest;
        if tag & 7 == u64::from(LEN) {
            found.push((tag >> 3, value));
        }
    }
    Some(found)
}

fn text(value: &[u8]) -> Option<String> {
    String::from_utf8(value.to_vec()).ok()
}

/// `StatusResponse`, without its version.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) healthz: String,
    pub(super) key_id: String,
}

pub(super) fn status(bytes: &[u8]) -> Option<Status> {
    let mut status = Status::default();
    for (field, value) in fields(bytes)? {
        match field {
            2 => status.healthz = text(value)?,
            3 => status.key_id = text(value)?,
            _ => {}
        }
    }
    Some(status)
}

/// `EncryptRequest`.
pub(super) fn encrypt(plaintext: &[u8], uid: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, 1, plaintext);
    put(&mut out, 2, uid.as_bytes());
    out
}

/// `EncryptResponse`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Encrypted {
    pub(super) ciphertext: Vec<u8>,
    pub(super) key_id: String,
    /// Entries of the map, as they came.
    annotations: Vec<Vec<u8>>,
}

impl Encrypted {
    pub(super) fn parse(bytes: &[u8]) -> Option<Encrypted> {
        let mut encrypted = Encrypted::default();
        for (field, value) in fields(bytes)? {
            match field {
                1 => encrypted.ciphertext = value.to_vec(),
                2 => encrypted.key_id = text(value)?,
                3 => encrypted.annotations.push(value.to_vec()),
                _ => {}
            }
        }
        Some(encrypted)
    }
}

/// `DecryptRequest`.
pub(super) struct Decrypt<'a> {
    pub(super) encrypted: &'a Encrypted,
    pub(super) uid: &'a str,
}

impl Decrypt<'_> {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, 1, &self.encrypted.ciphertext);
        put(&mut out, 2, self.uid.as_bytes());
        put(&mut out, 3, self.encrypted.key_id.as_bytes());
        for entry in &self.encrypted.annotations {
            put(&mut out, 4, entry);
        }
        out
    }
}

/// What a `DecryptResponse` holds.
pub(super) fn plaintext(bytes: &[u8]) -> Option<Vec<u8>> {
    fields(bytes)?.into_iter().find(|(field, _)| *field == 1).map(|(_, value)| value.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_back_as_a_question() {
        let mut answer = Vec::new();
        put(&mut answer, 1, &[9; 300]);
        put(&mut answer, 2, b"key-7");
        put(&mut answer, 3, b"\n\x01a\x12\x01b");
        let encrypted = Encrypted::parse(&answer).unwrap();
        assert_eq!((encrypted.ciphertext.len(), encrypted.key_id.as_str()), (300, "key-7"));
        let question = Decrypt { encrypted: &encrypted, uid: "u" }.bytes();
        let found: Vec<u64> = fields(&question).unwrap().into_iter().map(|(field, _)| field).collect();
        assert_eq!(found, [1, 2, 3, 4]);
        assert_eq!(Encrypted::parse(&answer[..answer.len() - 1]), None);
    }

    #[test]
    fn a_frame_is_one_message() {
        assert_eq!(unframe(frame(b"abc")).as_deref(), Some(&b"abc"[..]));
        assert_eq!(unframe(Bytes::from_static(b"\0\0\0\0\x09abc")), None);
        assert_eq!(unframe(Bytes::from_static(b"\x01\0\0\0\x03abc")), None);
    }
}
