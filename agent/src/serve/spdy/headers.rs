//! Pure: SPDY/3 header blocks: one zlib stream for the whole connection, primed with the protocol's dictionary.
//!
//! flate2's pure-Rust back end knows no preset dictionary, but inflating into a window that already holds the dictionary
//! is the same thing. What we send is stored, not compressed: the zlib format allows it, and it is a handful of bytes.

use std::sync::LazyLock;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

use super::frame::SpdyError;

/// The deflate window.
const WINDOW: usize = 32 * 1024;
/// Names and values of one block; the peers send a few dozen bytes.
const BLOCK_MAX_BYTES: usize = 64 * 1024;
/// The dictionary's Adler-32, as the zlib header names it.
const DICTIONARY_ID: [u8; 4] = [0xe3, 0xc6, 0xa7, 0xc2];

/// Words of the dictionary that stand behind their length (SPDY/3, "Compression").
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host \
    if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200\u{a0}OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";
/// What follows them without lengths.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
    publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        let word = word.replace('\u{a0}', " ");
        bytes.extend_from_slice(&u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
});

/// Names (lower case) and values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Inflates the blocks of one direction of a connection, in order.
pub(crate) struct HeaderReader {
    inflater: Box<DecompressorOxide>,
    window: Vec<u8>,
    at: usize,
    started: bool,
}

impl HeaderReader {
    pub(crate) fn new() -> Self {
        Self { inflater: Box::default(), window: Vec::new(), at: 0, started: false }
    }

    pub(crate) fn read(&mut self, mut block: &[u8]) -> Result<Headers, SpdyError> {
        if !self.started {
            block = self.start(block)?;
        }
        let mut plain = Vec::new();
        while !block.is_empty() {
            let flags = inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
            let (status, read, written) = decompress(&mut self.inflater, block, &mut self.window, self.at, flags);
            plain.extend_from_slice(&self.window[self.at..self.at + written]);
            self.at = (self.at + written) % WINDOW;
            block = &block[read..];
            if plain.len() > BLOCK_MAX_BYTES {
                return Err(SpdyError::Headers("too large"));
            }
            match status {
                TINFLStatus::NeedsMoreInput => break,
                TINFLStatus::HasMoreOutput => {}
                _ => return Err(SpdyError::Headers("damaged compression")),
            }
        }
        parse(&plain)
    }

    /// Reads the zlib header and fills the window with the dictionary if the peer used it.
    fn start<'a>(&mut self, block: &'a [u8]) -> Result<&'a [u8], SpdyError> {
        let &[method, flags, ref rest @ ..] = block else { return Err(SpdyError::Short) };
        if method & 0x0f != 8 || (u16::from(method) << 8 | u16::from(flags)) % 31 != 0 {
            return Err(SpdyError::Headers("no zlib stream"));
        }
        self.window = vec![0; WINDOW];
        self.started = true;
        if flags & 0x20 == 0 {
            return Ok(rest);
        }
        let rest = rest.strip_prefix(&DICTIONARY_ID).ok_or(SpdyError::Headers("an unknown dictionary"))?;
        // Right behind the dictionary, as if it had just been inflated.
        self.window[..DICTIONARY.len()].copy_from_slice(&DICTIONARY);
        self.at = DICTIONARY.len();
        Ok(rest)
    }
}

fn parse(mut plain: &[u8]) -> Result<Headers, SpdyError> {
    fn number(plain: &mut &[u8]) -> Result<usize, SpdyError> {
        let (head, rest) = plain.split_first_chunk::<4>().ok_or(SpdyError::Headers("cut short"))?;
        *plain = rest;
        Ok(u32::from_be_bytes(*head) as usize)
    }
    fn text(plain: &mut &[u8]) -> Result<String, SpdyError> {
        let length = number(plain)?;
        let (text, rest) = plain.split_at_checked(length).ok_or(SpdyError::Headers("cut short"))?;
        *plain = rest;
        String::from_utf8(text.to_vec()).map_err(|_| SpdyError::Headers("no UTF-8"))
    }
    let count = number(&mut plain)?;
    let mut headers = Headers::default();
    for _ in 0..count {
        let name = text(&mut plain)?.to_ascii_lowercase();
        headers.0.push((name, text(&mut plain)?));
    }
    Ok(headers)
}

/// Writes the blocks of one direction.
pub(crate) struct HeaderWriter {
    started: bool,
}

impl HeaderWriter {
    pub(crate) fn new() -> Self {
        Self { started: false }
    }

    pub(crate) fn write(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = Vec::new();
        let number = |plain: &mut Vec<u8>, number: usize| {
            plain.extend_from_slice(&u32::try_from(number).unwrap_or(0).to_be_bytes());
        };
        number(&mut plain, headers.0.len());
        for (name, value) in &headers.0 {
            for text in [name, value] {
                number(&mut plain, text.len());
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut block = if std::mem::replace(&mut self.started, true) { Vec::new() } else { vec![0x78, 0x01] };
        for chunk in plain.chunks(usize::from(u16::MAX)) {
            let length = u16::try_from(chunk.len()).unwrap_or(0);
            // A stored block that is not the last (RFC 1951 §3.2.4).
            block.push(0);
            block.extend_from_slice(&length.to_le_bytes());
            block.extend_from_slice(&(!length).to_le_bytes());
            block.extend_from_slice(chunk);
        }
        // A reader in Go hands out what it has inflated only at a full window or at an empty stored block, the mark of
        // zlib's sync flush.
        block.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_protocols() {
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in DICTIONARY.iter() {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((b << 16 | a).to_be_bytes(), DICTIONARY_ID);
        assert_eq!(DICTIONARY.len(), 1423);
    }

    /// What zlib writes for the streams of an exec, primed with the dictionary and flushed after each block.
    #[test]
    fn blocks_of_a_real_peer_are_read() {
        let blocks: [(&[u8], &str); 3] = [
            (
                b"\x78\xf9\xe3\xc6\xa7\xc2\x02\xa6\x23\x46\x70\x3a\x2b\x29\x4a\x4d\xcc\x85\x16\x25\xac\xa9\xa0\x80\x06\x00\x00\x00\xff\xff",
                "error",
            ),
            (b"\xc2\x2a\x05\x4c\xcc\x29\xf9\xa5\x25\x00\x00\x00\x00\xff\xff", "stdout"),
            (b"\xc2\x29\x07\xd4\x09\x00\x00\x00\xff\xff", "stderr"),
        ];
        let mut reader = HeaderReader::new();
        for (block, stream) in blocks {
            assert_eq!(reader.read(block).unwrap().get("streamtype"), Some(stream));
        }
    }

    #[test]
    fn each_block_ends_as_a_sync_flush_does() {
        let mut writer = HeaderWriter::new();
        for _ in 0..2 {
            assert!(writer.write(&Headers::default()).ends_with(&[0, 0, 0, 0, /* the mark */ 0, 0, 0, 0xff, 0xff]));
        }
    }

    #[test]
    fn a_bomb_of_headers_is_refused() {
        let mut reader = HeaderReader::new();
        // Sixteen stored kilobytes again and again within one block.
        let mut block = vec![0x78, 0x01];
        for _ in 0..8 {
            block.extend_from_slice(&[0, 0x00, 0x40, 0xff, 0xbf]);
            block.extend(std::iter::repeat_n(b'x', 0x4000));
        }
        assert_eq!(reader.read(&block), Err(SpdyError::Headers("too large")));
    }
}
