//! Compressed payloads: gzip and zstd, as producers that save bytes write them.
//!
//! What cannot be unpacked (broken, or larger than [`LARGEST_BYTES`]) is handed on as it came, so that the decoder refuses
//! it with its bytes in the error output: it is neither lost nor a reason to stop.

use std::io::Read;

use crate::contracts::{Error, Result};

/// Largest unpacked payload. A record has up to 10 MiB; JSON shrinks to a tenth or so, a bomb to a thousandth.
pub(super) const LARGEST_BYTES: usize = 64 << 20;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How payloads are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    /// As they are.
    None,
    /// By the first bytes of each: gzip, zstd or neither.
    Auto,
    Gzip,
    Zstd,
}

impl Compression {
    pub(super) fn parse(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "none" => Ok(Self::None),
            "auto" => Ok(Self::Auto),
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            _ => Err(Error::config(format!("'{text}' is no compression")).hint("none, auto, gzip or zstd")),
        }
    }

    /// Appends the unpacked payload to `out`.
    pub(super) fn unpack(self, payload: &[u8], out: &mut Vec<u8>) {
        let before = out.len();
        let is_gzip = payload.starts_with(&GZIP) && matches!(self, Self::Auto | Self::Gzip);
        let is_zstd = payload.starts_with(&ZSTD) && matches!(self, Self::Auto | Self::Zstd);
        let most = LARGEST_BYTES as u64 + 1;
        let unpacked = if is_gzip {
            flate2::read::MultiGzDecoder::new(payload).take(most).read_to_end(out).is_ok()
        } else if is_zstd {
            zstd::Decoder::new(payload).and_then(|decoder| decoder.take(most).read_to_end(out)).is_ok()
        } else {
            false
        };
        if !unpacked || out.len() - before > LARGEST_BYTES {
            out.truncate(before);
            out.extend_from_slice(payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn packed_and_plain_payloads_broken_ones_and_bombs() {
        let gzip = |data: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        };
        let unpack = |how: Compression, payload: &[u8]| {
            let mut out = b"before".to_vec();
            how.unpack(payload, &mut out);
            out.split_off(6)
        };
        let text = b"{\"a\":1}";
        let zstd = zstd::encode_all(&text[..], 3).unwrap();
        assert_eq!(unpack(Compression::Auto, &gzip(text)), text);
        assert_eq!(unpack(Compression::Auto, &zstd), text);
        assert_eq!(unpack(Compression::Zstd, &zstd), text);
        for how in [Compression::None, Compression::Auto, Compression::Gzip, Compression::Zstd] {
            assert_eq!(unpack(how, text), text);
        }
        assert_eq!(unpack(Compression::None, &zstd), zstd);
        let torn = &gzip(text)[..10];
        assert_eq!(unpack(Compression::Auto, torn), torn);
        let bomb = gzip(&vec![0; LARGEST_BYTES + 1]);
        assert_eq!(unpack(Compression::Gzip, &bomb), bomb);
    }
}
