//! The log format of one shard of the embedded Kinesis.
//!
//! ```text
//! file   = header frame*
//! header = "TIDESHRD" version:u32 0:u32
//! frame  = magic:u32 length:u32 checksum:u64 count:u32 payload_bytes:u32 first_sequence:u64 arrival_ms:i64
//!          payload_end:u32[count] key_end:u32[count] payloads keys        (numbers are little endian)
//! ```
//!
//! A frame holds the records of one put that belong to the shard; `length` counts the bytes after the
//! frame's first 16, and `checksum` is XXH64 over them. Sequence numbers are dense from 1 over the whole
//! file. A reader gives a frame out only when its checksum holds, so one that is being written, or was
//! torn by a crash, does not exist for it; the next writer cuts a torn one off.

use crate::contracts::{Error, Result, xxh64};

const MAGIC: &[u8; 8] = b"TIDESHRD";
const VERSION: u32 = 1;
const FRAME_MAGIC: u32 = 0x314D_4654;

/// Bytes of the file's header.
pub(super) const FILE_HEADER_BYTES: u64 = 16;
/// Bytes of a frame before `payload_end`.
pub(super) const FRAME_HEADER_BYTES: usize = 40;
/// Where `length` starts to count.
const LENGTH_FROM: usize = 16;
/// A put takes at most 5 MiB; more than this in a length is damage.
const MAX_FRAME_BYTES: usize = 64 << 20;

/// The file's first bytes.
pub(super) fn file_header() -> [u8; FILE_HEADER_BYTES as usize] {
    let mut header = [0; FILE_HEADER_BYTES as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header
}

/// Refuses a file that is no log, or one of a later version.
pub(super) fn check_file_header(header: &[u8]) -> Result<()> {
    if header.len() < FILE_HEADER_BYTES as usize || &header[..8] != MAGIC {
        return Err(Error::corrupt("not a shard log"));
    }
    match u32_at(header, 8) {
        VERSION => Ok(()),
        other => Err(Error::corrupt(format!("shard log of version {other}, this program reads version {VERSION}"))),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// A frame's header.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameHeader {
    /// Bytes of the whole frame.
    pub(super) bytes: usize,
    pub(super) count: usize,
    pub(super) payload_bytes: usize,
    pub(super) first_sequence: u64,
    pub(super) arrival_ms: i64,
    checksum: u64,
}

impl FrameHeader {
    /// Number after the frame's last record.
    pub(super) fn next_sequence(&self) -> u64 {
        self.first_sequence + self.count as u64
    }

    /// Reads a header; `None` where there is none (too short, or damage).
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < FRAME_HEADER_BYTES || u32_at(bytes, 0) != FRAME_MAGIC {
            return None;
        }
        let header = Self {
            bytes: LENGTH_FROM + u32_at(bytes, 4) as usize,
            checksum: u64_at(bytes, 8),
            count: u32_at(bytes, 16) as usize,
            payload_bytes: u32_at(bytes, 20) as usize,
            first_sequence: u64_at(bytes, 24),
            arrival_ms: u64_at(bytes, 32) as i64,
        };
        let least = FRAME_HEADER_BYTES + 8 * header.count + header.payload_bytes;
        (header.bytes >= least && header.bytes <= MAX_FRAME_BYTES && header.count > 0).then_some(header)
    }

    /// Whether `frame`, which starts with this header, is whole.
    pub(super) fn holds(&self, frame: &[u8]) -> bool {
        frame.len() >= self.bytes && xxh64(&frame[LENGTH_FROM..self.bytes]) == self.checksum
    }

    /// Where payload `index` ends, counted from the frame's start.
    pub(super) fn payload_end(&self, frame: &[u8], index: usize) -> usize {
        self.payloads_at() + u32_at(frame, FRAME_HEADER_BYTES + 4 * index) as usize
    }

    /// Where the first payload starts.
    pub(super) fn payloads_at(&self) -> usize {
        FRAME_HEADER_BYTES + 8 * self.count
    }

    /// Partition key `index`.
    pub(super) fn key<'a>(&self, frame: &'a [u8], index: usize) -> &'a str {
        let ends = FRAME_HEADER_BYTES + 4 * self.count;
        let keys = &frame[self.payloads_at() + self.payload_bytes..self.bytes];
        let start = if index == 0 { 0 } else { u32_at(frame, ends + 4 * (index - 1)) as usize };
        let end = u32_at(frame, ends + 4 * index) as usize;
        keys.get(start..end).and_then(|k| std::str::from_utf8(k).ok()).unwrap_or("")
    }
}

/// Whether a whole frame starts anywhere in `bytes`. Behind bytes that are no frame this tells damage in the middle
/// of a log from a torn end.
pub(super) fn holds_a_frame(bytes: &[u8]) -> bool {
    memchr::memmem::find_iter(bytes, &FRAME_MAGIC.to_le_bytes()).any(|at| {
        let rest = &bytes[at..];
        FrameHeader::parse(rest).is_some_and(|header| header.holds(rest))
    })
}

/// Gathers the records of one frame.
#[derive(Debug, Default)]
pub(super) struct FrameBuilder {
    payload_ends: Vec<u32>,
    key_ends: Vec<u32>,
    payloads: Vec<u8>,
    keys: Vec<u8>,
}

impl FrameBuilder {
    pub(super) fn push(&mut self, payload: &[u8], key: &str) {
        self.payloads.extend_from_slice(payload);
        self.keys.extend_from_slice(key.as_bytes());
        self.payload_ends.push(self.payloads.len() as u32);
        self.key_ends.push(self.keys.len() as u32);
    }

    pub(super) fn len(&self) -> usize {
        self.payload_ends.len()
    }

    /// Writes the frame to `out` and empties the builder.
    pub(super) fn finish(&mut self, first_sequence: u64, arrival_ms: i64, out: &mut Vec<u8>) {
        let start = out.len();
        let body = FRAME_HEADER_BYTES + 8 * self.len() + self.payloads.len() + self.keys.len();
        out.reserve(body);
        out.extend_from_slice(&FRAME_MAGIC.to_le_bytes());
        out.extend_from_slice(&((body - LENGTH_FROM) as u32).to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&(self.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.payloads.len() as u32).to_le_bytes());
        out.extend_from_slice(&first_sequence.to_le_bytes());
        out.extend_from_slice(&arrival_ms.to_le_bytes());
        for end in self.payload_ends.drain(..).chain(self.key_ends.drain(..)) {
            out.extend_from_slice(&end.to_le_bytes());
        }
        out.append(&mut self.payloads);
        out.append(&mut self.keys);
        let checksum = xxh64(&out[start + LENGTH_FROM..]);
        out[start + 8..start + 16].copy_from_slice(&checksum.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_and_damage_shows() {
        let mut builder = FrameBuilder::default();
        builder.push(b"one", "k1");
        builder.push(b"", "key2");
        let mut frame = Vec::new();
        builder.finish(7, 1234, &mut frame);
        let header = FrameHeader::parse(&frame).unwrap();
        assert!(header.holds(&frame));
        assert_eq!((header.count, header.first_sequence, header.arrival_ms, header.bytes), (2, 7, 1234, frame.len()));
        let start = header.payloads_at();
        assert_eq!(&frame[start..header.payload_end(&frame, 0)], b"one");
        assert_eq!(header.payload_end(&frame, 1), header.payload_end(&frame, 0));
        assert_eq!((header.key(&frame, 0), header.key(&frame, 1)), ("k1", "key2"));
        assert!(!header.holds(&frame[..frame.len() - 1]));
        frame[50] ^= 1;
        assert!(!header.holds(&frame));
    }
}
