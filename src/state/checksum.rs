//! Checksums of what is kept on disk: SHA-256, so that any flipped bit shows.

use sha2::{Digest, Sha256};

use crate::contracts::hex;

/// SHA-256 as 64 hex digits.
pub(crate) fn hex_digest(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}
