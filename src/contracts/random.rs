//! Numbers that look like chance and come from a seed, so that a run can be repeated. Not for secrets.

/// How far the state of splitmix64 moves from one number to the next.
pub const SPLITMIX64_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number after `state` (splitmix64: Steele, Lea, Flood, 2014). One step is enough to make neighbouring numbers unlike;
/// a sequence goes on with `state` + [`SPLITMIX64_STEP`].
pub fn splitmix64(state: u64) -> u64 {
    let mut z = state.wrapping_add(SPLITMIX64_STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of the reference implementation for the seed 1234567.
    #[test]
    fn the_sequence_is_the_published_one() {
        let numbers: Vec<u64> =
            (0..3).map(|n| splitmix64(1_234_567u64.wrapping_add(SPLITMIX64_STEP.wrapping_mul(n)))).collect();
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
