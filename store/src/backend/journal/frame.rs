//! Pure: one commit as the bytes of a frame.
//!
//! ```text
//! frame   length u32, CRC-32 of the body u32, body
//! body    1, reserved u64, floor u64, soft text     or 0 where the meta does not change
//!         records u32, each: key text, 1 and value text     or 0 for a deletion
//! text    length u32, bytes
//! ```

use std::sync::Arc;

use bytes::Bytes;

use crate::backend::{Commit, Meta};

/// Length and checksum.
pub(crate) const HEAD_BYTES: usize = 8;
/// What a record takes beside key and value, at most.
const RECORD_BYTES: usize = 9;
/// What a body takes beside records and the text of a meta.
const BODY_BYTES: usize = 25;

/// The most that the frame of a commit takes.
pub(crate) fn bytes_max(commit: &Commit) -> usize {
    let records: usize = commit
        .records
        .iter()
        .map(|(key, raw)| RECORD_BYTES + key.len() + raw.as_ref().map_or(0, |raw| raw.len()))
        .sum();
    let soft: usize = commit.meta.iter().flat_map(|meta| &meta.soft).map(|name| name.len() + 1).sum();
    HEAD_BYTES + BODY_BYTES + soft + records
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&u32::try_from(text.len()).expect("bounded by the journal").to_le_bytes());
    out.extend_from_slice(text);
}

/// Writes a commit's frame to the end of `out`.
pub(crate) fn encode(commit: &Commit, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    match &commit.meta {
        Some(meta) => {
            out.push(1);
            out.extend_from_slice(&meta.reserved.to_le_bytes());
            out.extend_from_slice(&meta.floor.to_le_bytes());
            let soft: Vec<&str> = meta.soft.iter().map(String::as_str).collect();
            put_text(out, soft.join("\n").as_bytes());
        }
        None => out.push(0),
    }
    out.extend_from_slice(&u32::try_from(commit.records.len()).expect("bounded by the journal").to_le_bytes());
    for (key, raw) in &commit.records {
        put_text(out, key.as_bytes());
        match raw {
            Some(raw) => {
                out.push(1);
                put_text(out, raw);
            }
            None => out.push(0),
        }
    }
    let (head, body) = out[start..].split_at_mut(HEAD_BYTES);
    head[..4].copy_from_slice(&u32::try_from(body.len()).expect("bounded by the journal").to_le_bytes());
    head[4..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
}

/// Length of the body, from the head of a frame.
pub(crate) fn body_bytes(head: &[u8]) -> Option<usize> {
    Some(u32::from_le_bytes(head.get(..4)?.try_into().ok()?) as usize)
}

/// The commit of a whole frame; none where it is torn.
pub(crate) fn decode(frame: &[u8]) -> Option<Commit> {
    let (head, body) = frame.split_at_checked(HEAD_BYTES)?;
    if head[..4] != u32::try_from(body.len()).ok()?.to_le_bytes() || head[4..] != crc32fast::hash(body).to_le_bytes() {
        return None;
    }
    let mut rest = Rest(body);
    let mut commit = Commit::default();
    if rest.byte()? == 1 {
        let (reserved, floor) = (rest.number()?, rest.number()?);
        let soft = std::str::from_utf8(rest.text()?).ok()?.lines().map(str::to_owned).collect();
        commit.meta = Some(Meta { reserved, floor, soft });
    }
    for _ in 0..rest.short()? {
        let key: Arc<str> = std::str::from_utf8(rest.text()?).ok()?.into();
        let raw = if rest.byte()? == 1 { Some(Bytes::copy_from_slice(rest.text()?)) } else { None };
        commit.records.insert(key, raw);
    }
    rest.0.is_empty().then_some(commit)
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn short(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let bytes = self.short()? as usize;
        self.take(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_comes_back_whole_or_not_at_all() {
        let mut commit = Commit::default();
        commit.records.insert("pods/a".into(), Some("value".into()));
        commit.records.insert("pods/b".into(), None);
        let soft = ["leases", "nodes"].map(str::to_owned).into();
        commit.meta = Some(Meta { reserved: 7, floor: 3, soft });
        let mut frame = Vec::new();
        encode(&commit, &mut frame);
        assert!(frame.len() <= bytes_max(&commit));
        assert_eq!(body_bytes(&frame), Some(frame.len() - HEAD_BYTES));
        let back = decode(&frame).unwrap();
        assert_eq!((&back.records, &back.meta), (&commit.records, &commit.meta));
        for torn in 0..frame.len() {
            assert!(decode(&frame[..torn]).is_none());
        }
        for bit in 0..frame.len() * 8 {
            frame[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&frame).is_none());
            frame[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
