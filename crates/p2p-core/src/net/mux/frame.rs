//! Headers of yamux: the bytes on the wire, and nothing that depends on a state.

use std::io;

/// Bytes of a header.
pub(super) const HEADER: usize = 12;

/// Opens a stream.
pub(super) const SYN: u16 = 1;
/// Accepts a stream, answers a ping.
pub(super) const ACK: u16 = 2;
/// Nothing more will be sent.
pub(super) const FIN: u16 = 4;
/// The stream is gone.
pub(super) const RST: u16 = 8;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As many bytes as its length says follow.
    Data,
    /// Its length is how much more the other side may send.
    Window,
    /// Its length comes back.
    Ping,
    /// The connection ends.
    GoAway,
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) flags: u16,
    /// 0 is the connection itself.
    pub(super) stream: u32,
    pub(super) len: u32,
}

impl Header {
    pub(super) fn window(stream: u32, flags: u16, credit: u32) -> Self {
        Self {
            kind: Kind::Window,
            flags,
            stream,
            len: credit,
        }
    }

    pub(super) fn data(stream: u32, flags: u16, len: u32) -> Self {
        Self {
            kind: Kind::Data,
            flags,
            stream,
            len,
        }
    }

    pub(super) fn has(self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let kind = match self.kind {
            Kind::Data => 0,
            Kind::Window => 1,
            Kind::Ping => 2,
            Kind::GoAway => 3,
        };
        let [f0, f1] = self.flags.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        let [l0, l1, l2, l3] = self.len.to_be_bytes();
        [0, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3]
    }

    /// # Errors
    /// For another version and unknown kinds.
    pub(super) fn parse(bytes: [u8; HEADER]) -> io::Result<Self> {
        let [version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = bytes;
        let kind = match (version, kind) {
            (0, 0) => Kind::Data,
            (0, 1) => Kind::Window,
            (0, 2) => Kind::Ping,
            (0, 3) => Kind::GoAway,
            _ => return Err(super::violation("a frame of no known kind")),
        };
        Ok(Self {
            kind,
            flags: u16::from_be_bytes([f0, f1]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            len: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }
}
