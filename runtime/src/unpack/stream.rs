//! Pure: a layer's bytes hashed on the wire and again after decompression, on their way to the tar reader.

use std::io::{BufReader, Chain, Cursor, Read};

use flate2::read::MultiGzDecoder;
use ring::digest::{Context, SHA256};

use crate::reference::Digest;

/// Reads ahead this much of the compressed stream.
const BUFFER_BYTES: usize = 32 * 1024;
/// Some archives end without the two blocks of zeros that end a tar.
const PADDING: [u8; 2048] = [0; 2048];

/// Hashes all that is read through it.
struct Hashing<R> {
    inner: R,
    context: Context,
}

impl<R> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, context: Context::new(&SHA256) }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.context.update(&buffer[..count]);
        Ok(count)
    }
}

type Peeked<R> = Chain<Cursor<Vec<u8>>, BufReader<Hashing<R>>>;

/// The compressions that the OCI image specification names.
enum Plain<R: Read> {
    Tar(Box<Peeked<R>>),
    Gzip(Box<MultiGzDecoder<Peeked<R>>>),
    Zstd(Box<ruzstd::decoding::StreamingDecoder<Peeked<R>, ruzstd::decoding::FrameDecoder>>),
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tar(reader) => reader.read(buffer),
            Self::Gzip(reader) => reader.read(buffer),
            Self::Zstd(reader) => reader.read(buffer),
        }
    }
}

impl<R: Read> Plain<R> {
    fn into_wire(self) -> Hashing<R> {
        let peeked = match self {
            Self::Tar(reader) => *reader,
            Self::Gzip(reader) => reader.into_inner(),
            Self::Zstd(reader) => reader.into_inner(),
        };
        peeked.into_inner().1.into_inner()
    }
}

/// A layer as an uncompressed tar that remembers both digests.
pub(super) struct LayerStream<R: Read> {
    tar: Hashing<Plain<R>>,
    padding: &'static [u8],
}

impl<R: Read> LayerStream<R> {
    /// Recognises the compression by its first bytes; media types of real registries are not to be trusted.
    pub(super) fn new(wire: R) -> std::io::Result<Self> {
        let mut wire = BufReader::with_capacity(BUFFER_BYTES, Hashing::new(wire));
        let mut magic = Vec::with_capacity(4);
        wire.by_ref().take(4).read_to_end(&mut magic)?;
        let kind = [magic.starts_with(&[0x1f, 0x8b]), magic == [0x28, 0xb5, 0x2f, 0xfd]];
        let peeked = Cursor::new(magic).chain(wire);
        let plain = match kind {
            [true, _] => Plain::Gzip(Box::new(MultiGzDecoder::new(peeked))),
            [_, true] => {
                Plain::Zstd(Box::new(ruzstd::decoding::StreamingDecoder::new(peeked).map_err(std::io::Error::other)?))
            }
            _ => Plain::Tar(Box::new(peeked)),
        };
        Ok(Self { tar: Hashing::new(plain), padding: &PADDING })
    }

    /// Drains what stands behind the archive's end and returns the digests of wire and tar.
    pub(super) fn finish(mut self) -> std::io::Result<(Digest, Digest)> {
        std::io::copy(&mut self.tar, &mut std::io::sink())?;
        let diff = Digest::from_ring(&self.tar.context.finish());
        let mut wire = self.tar.inner.into_wire();
        std::io::copy(&mut wire, &mut std::io::sink())?;
        Ok((Digest::from_ring(&wire.context.finish()), diff))
    }
}

impl<R: Read> Read for LayerStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.tar.read(buffer)? {
            0 => self.padding.read(buffer),
            count => Ok(count),
        }
    }
}
