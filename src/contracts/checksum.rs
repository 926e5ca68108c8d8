//! XXH64, the checksum of what is read often and fast (frames of the local stream, spilled state): about 10 GB/s without special
//! instructions, so that checking costs little beside decoding. What outlives its process and its machine has SHA-256. See <https://github.com/Cyan4973/xxHash> (doc/xxhash_spec.md).

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

fn round(acc: u64, lane: u64) -> u64 {
    acc.wrapping_add(lane.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1)
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// XXH64 of `data` with seed 0.
pub fn xxh64(data: &[u8]) -> u64 {
    let stripes = data.chunks_exact(32);
    let tail = stripes.remainder();
    let mut hash = if data.len() >= 32 {
        let mut acc = [P1.wrapping_add(P2), P2, 0, 0u64.wrapping_sub(P1)];
        for stripe in stripes {
            for (a, lane) in acc.iter_mut().zip(stripe.chunks_exact(8)) {
                *a = round(*a, word(lane));
            }
        }
        let mut hash = acc[0].rotate_left(1);
        for (a, turn) in acc[1..].iter().zip([7, 12, 18]) {
            hash = hash.wrapping_add(a.rotate_left(turn));
        }
        for a in acc {
            hash = (hash ^ round(0, a)).wrapping_mul(P1).wrapping_add(P4);
        }
        hash
    } else {
        P5
    };
    hash = hash.wrapping_add(data.len() as u64);
    let lanes = tail.chunks_exact(8);
    let rest = lanes.remainder();
    for lane in lanes {
        hash = (hash ^ round(0, word(lane))).rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
    }
    let (half, bytes) = rest.split_at(rest.len() & 4);
    if let Ok(half) = <[u8; 4]>::try_from(half) {
        let lane = u64::from(u32::from_le_bytes(half));
        hash = (hash ^ lane.wrapping_mul(P1)).rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
    }
    for byte in bytes {
        hash = (hash ^ u64::from(*byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::xxh64;

    #[test]
    fn published_vectors() {
        assert_eq!(xxh64(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(xxh64(b"a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(xxh64(b"abc"), 0x44BC_2CF5_AD77_0999);
        assert_eq!(xxh64(b"Nobody inspects the spammish repetition"), 0xFBCE_A83C_8A37_8BF1);
    }
}
