//! Pure: SPDY/3.1 frames, as far as Kubernetes' streaming uses them (draft-mbelshe-httpbis-spdy-00, version 3).
//!
//! Flow control is left out as in the peers that speak it (kubectl, client-go): they neither send nor heed window updates.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::headers::{HeaderReader, HeaderWriter, Headers};

/// Data frames of the peers carry at most 32 KiB, header blocks a few hundred bytes; more is an attack.
const FRAME_MAX_BYTES: usize = 1 << 20;
/// Length of every frame's head.
const HEAD_BYTES: usize = 8;
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The peer opens a stream.
    Open { stream: u32, headers: Headers, fin: bool },
    /// The answer to it.
    Reply { stream: u32 },
    /// Bytes of a stream; with `fin` its last.
    Data { stream: u32, bytes: Bytes, fin: bool },
    /// A stream is torn down.
    Reset { stream: u32, status: u32 },
    /// To be echoed.
    Ping(u32),
    /// The peer takes no more streams.
    GoAway,
    /// Settings, window updates and the like: nothing to do.
    Other,
}

/// A peer that does not speak SPDY/3.1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpdyError {
    #[error("SPDY frame of {0} bytes is too large")]
    TooLarge(usize),
    #[error("SPDY version {0} is not supported")]
    Version(u16),
    #[error("SPDY frame is too short for its type")]
    Short,
    #[error("SPDY header block: {0}")]
    Headers(&'static str),
}

/// Takes frames out of a byte stream.
pub(crate) struct Decoder {
    headers: HeaderReader,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { headers: HeaderReader::new() }
    }

    /// The next whole frame of `buffer`, or `None` until more bytes have come.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        if buffer.len() < HEAD_BYTES {
            return Ok(None);
        }
        let length = usize::from(buffer[5]) << 16 | usize::from(buffer[6]) << 8 | usize::from(buffer[7]);
        if length > FRAME_MAX_BYTES {
            return Err(SpdyError::TooLarge(length));
        }
        if buffer.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        let mut head = buffer.split_to(HEAD_BYTES).freeze();
        let body = buffer.split_to(length).freeze();
        let (first, flags) = (head.get_u32(), head.get_u8());
        let fin = flags & FLAG_FIN != 0;
        if first >> 31 == 0 {
            return Ok(Some(Frame::Data { stream: first, bytes: body, fin }));
        }
        let version = (first >> 16) as u16 & 0x7fff;
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        self.control(first as u16, fin, body).map(Some)
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: Bytes) -> Result<Frame, SpdyError> {
        let number = |body: &mut Bytes| {
            if body.len() < 4 { Err(SpdyError::Short) } else { Ok(body.get_u32() & 0x7fff_ffff) }
        };
        Ok(match kind {
            SYN_STREAM => {
                let stream = number(&mut body)?;
                number(&mut body)?;
                if body.len() < 2 {
                    return Err(SpdyError::Short);
                }
                body.advance(2);
                Frame::Open { stream, headers: self.headers.read(&body)?, fin }
            }
            SYN_REPLY => {
                let stream = number(&mut body)?;
                // Its headers say nothing, but they are part of the one compressed stream.
                self.headers.read(&body)?;
                Frame::Reply { stream }
            }
            RST_STREAM => Frame::Reset { stream: number(&mut body)?, status: number(&mut body)? },
            PING => Frame::Ping(number(&mut body)?),
            GOAWAY => Frame::GoAway,
            _ => Frame::Other,
        })
    }
}

/// Writes frames.
pub(crate) struct Encoder {
    headers: HeaderWriter,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { headers: HeaderWriter::new() }
    }

    /// Appends one frame to `out`.
    pub(crate) fn put(&mut self, frame: &Frame, out: &mut BytesMut) {
        let fin = |fin: bool| if fin { FLAG_FIN } else { 0 };
        match frame {
            Frame::Open { stream, headers, fin: last } => {
                let block = self.headers.write(headers);
                control(out, SYN_STREAM, fin(*last), 10 + block.len());
                out.put_u32(*stream);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Frame::Reply { stream } => {
                let block = self.headers.write(&Headers::default());
                control(out, SYN_REPLY, 0, 4 + block.len());
                out.put_u32(*stream);
                out.put_slice(&block);
            }
            Frame::Data { stream, bytes, fin: last } => {
                out.put_u32(*stream);
                out.put_u32(u32::from(fin(*last)) << 24 | u32::try_from(bytes.len()).unwrap_or(0));
                out.put_slice(bytes);
            }
            Frame::Reset { stream, status } => {
                control(out, RST_STREAM, 0, 8);
                out.put_u32(*stream);
                out.put_u32(*status);
            }
            Frame::Ping(number) => {
                control(out, PING, 0, 4);
                out.put_u32(*number);
            }
            Frame::GoAway => {
                control(out, GOAWAY, 0, 8);
                out.put_u64(0);
            }
            Frame::Other => {}
        }
    }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | u32::try_from(length).unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_went() {
        let headers = Headers(vec![("streamtype".into(), "stdin".into()), ("port".into(), "80".into())]);
        let frames = [
            Frame::Open { stream: 1, headers, fin: false },
            Frame::Reply { stream: 1 },
            Frame::Data { stream: 1, bytes: Bytes::from_static(b"hello"), fin: true },
            Frame::Open { stream: 3, headers: Headers(vec![("streamtype".into(), "error".into())]), fin: true },
            Frame::Reset { stream: 3, status: 5 },
            Frame::Ping(7),
            Frame::GoAway,
        ];
        let (mut encoder, mut decoder, mut wire) = (Encoder::new(), Decoder::new(), BytesMut::new());
        for frame in &frames {
            encoder.put(frame, &mut wire);
        }
        // One byte at a time: a frame may be cut anywhere.
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for byte in wire {
            buffer.put_u8(byte);
            found.extend(decoder.next(&mut buffer).unwrap());
        }
        assert_eq!(found, frames);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let mut http = BytesMut::from(&b"\xff\xff\x00\x01\x00\x00\x00\x00"[..]);
        assert_eq!(Decoder::new().next(&mut http), Err(SpdyError::Version(0x7fff)));
        let mut huge = BytesMut::from(&b"\x00\x00\x00\x01\x00\xff\xff\xff"[..]);
        assert!(matches!(Decoder::new().next(&mut huge), Err(SpdyError::TooLarge(_))));
        let mut short = BytesMut::from(&b"\x80\x03\x00\x03\x00\x00\x00\x02ab"[..]);
        assert_eq!(Decoder::new().next(&mut short), Err(SpdyError::Short));
    }
}
