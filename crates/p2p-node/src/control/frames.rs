//! Framing of contents on `POST /v1/cat`, so that a cut stream can never pass for a complete one.
//!
//! Each frame is a big-endian `u32` length and as many bytes. A frame of length 0 ends the contents; what follows it is
//! one JSON object, `{"type":"done"}` or `{"type":"error",…}`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::protocol::Reply;
use crate::exit::Failure;

/// The longest frame accepted: generously above what the server sends, small enough to buffer.
const MAX_FRAME: usize = 1 << 20;

/// One frame of contents. Empty contents make no frame, as length 0 means the end.
pub fn data(bytes: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    for part in bytes.chunks(MAX_FRAME) {
        out.reserve(part.len() + 4);
        out.put_u32(part.len() as u32);
        out.put_slice(part);
    }
    out.freeze()
}

/// The end: how it went.
pub fn end(outcome: Result<(), Failure>) -> Bytes {
    let status = match outcome {
        Ok(()) => Reply::Done,
        Err(failure) => Reply::Error(failure),
    };
    let json = serde_json::to_vec(&status)
        .unwrap_or_else(|_| br#"{"type":"error","code":"error","message":""}"#.to_vec());
    let mut out = BytesMut::with_capacity(4 + json.len());
    out.put_u32(0);
    out.put_slice(&json);
    out.freeze()
}

/// Takes a stream of frames apart, however it was cut into chunks.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    ended: bool,
}

impl Decoder {
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The contents of the next whole frame, if one has arrived.
    pub fn next_data(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(header) = self.buffer.first_chunk::<4>().filter(|_| !self.ended) else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*header) as usize;
        if length > MAX_FRAME {
            return Err(Failure::new(
                "error",
                "the daemon sent a frame that is too long",
            ));
        }
        if length == 0 {
            self.buffer.advance(4);
            self.ended = true;
            return Ok(None);
        }
        if self.buffer.len() < length + 4 {
            return Ok(None);
        }
        self.buffer.advance(4);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Whether all was sent, once the stream has ended.
    pub fn finish(self) -> Result<(), Failure> {
        let cut = || {
            Failure::new(
                "interrupted",
                "the connection to the daemon was cut before the end of the content",
            )
        };
        if !self.ended {
            return Err(cut());
        }
        match serde_json::from_slice(&self.buffer) {
            Ok(Reply::Done) => Ok(()),
            Ok(Reply::Error(failure)) => Err(failure),
            Ok(_) | Err(_) => Err(cut()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(stream: &[u8], step: usize) -> (Vec<u8>, Result<(), Failure>) {
        let mut decoder = Decoder::default();
        let mut out = Vec::new();
        for chunk in stream.chunks(step) {
            decoder.push(chunk);
            loop {
                match decoder.next_data() {
                    Ok(Some(bytes)) => out.extend_from_slice(&bytes),
                    Ok(None) => break,
                    Err(failure) => return (out, Err(failure)),
                }
            }
        }
        (out, decoder.finish())
    }

    #[test]
    fn contents_survive_any_cutting() {
        let contents: Vec<u8> = (0..3000u32).map(|i| i as u8).collect();
        let stream = [
            &data(&contents[..1000])[..],
            &data(b""),
            &data(&contents[1000..]),
            &end(Ok(())),
        ]
        .concat();
        for step in [1, 3, 7, 1000, stream.len()] {
            assert_eq!(decode(&stream, step), (contents.clone(), Ok(())));
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let stream = [&data(b"abc")[..], &end(Ok(()))].concat();
        for end in 0..stream.len() {
            let (_, outcome) = decode(&stream[..end], 5);
            assert_eq!(
                outcome.map_err(|failure| failure.code.into_owned()),
                Err("interrupted".to_owned()),
                "cut at {end}"
            );
        }
    }

    #[test]
    fn a_failure_arrives_after_the_bytes() {
        let failure = Failure::new("network", "gone");
        let stream = [&data(b"abc")[..], &end(Err(failure.clone()))].concat();
        assert_eq!(decode(&stream, 2), (b"abc".to_vec(), Err(failure)));
        assert!(decode(&[0xff; 8], 8).1.is_err());
    }
}
