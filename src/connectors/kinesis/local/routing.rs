//! Which shard a partition key belongs to: MD5 over the 128-bit hash range, exactly as AWS does.

use md5::{Digest, Md5};

/// Hash of a partition key: its MD5 as a big-endian number.
pub fn hash_key(partition_key: &str) -> u128 {
    u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into())
}

/// First and last hash of shard `index` of `shards`, as AWS cuts the range for a new stream: equal parts, the
/// last one takes the remainder.
pub fn hash_range(index: u32, shards: u32) -> (u128, u128) {
    let width = part_width(shards);
    let start = width * u128::from(index);
    let last = if index + 1 == shards { u128::MAX } else { start + width - 1 };
    (start, last)
}

/// The shard of `hash` in a stream of `shards` equal parts.
pub fn shard_of(hash: u128, shards: u32) -> u32 {
    let index = hash / part_width(shards);
    u32::try_from(index).unwrap_or(u32::MAX).min(shards.saturating_sub(1))
}

/// 2^128 / shards, rounded down; for one shard the largest u128, which gives the same shard.
fn part_width(shards: u32) -> u128 {
    let n = u128::from(shards.max(1));
    // floor(2^128 / n) without 129 bits: 2^128 = (MAX / n) * n + (MAX % n) + 1.
    if n == 1 { u128::MAX } else { u128::MAX / n + u128::from(u128::MAX % n == n - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_everything_without_gaps() {
        for shards in [1, 2, 3, 4, 5, 7, 16] {
            let mut next = 0u128;
            for index in 0..shards {
                let (first, last) = hash_range(index, shards);
                assert_eq!(first, next);
                assert_eq!(shard_of(first, shards), index);
                assert_eq!(shard_of(last, shards), index);
                next = last.wrapping_add(1);
            }
            assert_eq!(next, 0);
        }
        // The second of two shards starts at 2^127, as `aws kinesis describe-stream` shows it.
        assert_eq!(hash_range(1, 2).0, 170_141_183_460_469_231_731_687_303_715_884_105_728);
        // And the third of three.
        assert_eq!(hash_range(2, 3).0, 226_854_911_280_625_642_308_916_404_954_512_140_970);
    }

    #[test]
    fn known_md5() {
        assert_eq!(hash_key("a"), 0x0cc1_75b9_c0f1_b6a8_31c3_99e2_6977_2661);
    }
}
