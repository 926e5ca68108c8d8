//! Which keys a run may have.

/// A Bloom filter of hashes, all bits of one in one word: 12 bits a key, 4 of which are set, answer 'perhaps' for about one
/// in a hundred keys that are not there (Putze, Sanders and Singler, "Cache-, Hash- and Space-Efficient Bloom Filters").
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) words: Vec<u64>,
}

impl Filter {
    /// A filter for about so many keys.
    pub(super) fn new(keys: usize) -> Self {
        Self { words: vec![0; (keys * 12).div_ceil(64).max(1)] }
    }

    fn place(&self, hash: u64) -> (usize, u64) {
        let word = ((hash & 0xffff_ffff) * self.words.len() as u64) >> 32;
        let mask = [58, 52, 46, 40].into_iter().fold(0, |mask, shift| mask | 1 << (hash >> shift & 63));
        (word as usize, mask)
    }

    /// Adds a key.
    pub(super) fn add(&mut self, hash: u64) {
        let (word, mask) = self.place(hash);
        self.words[word] |= mask;
    }

    /// False when the key was not added.
    pub(super) fn may_have(&self, hash: u64) -> bool {
        let (word, mask) = self.place(hash);
        self.words[word] & mask == mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_keys_that_are_not_there_are_looked_for() {
        let mut filter = Filter::new(100_000);
        let hash = |n: u64| std::hash::BuildHasher::hash_one(&foldhash::quality::FixedState::with_seed(0), n);
        (0..100_000).for_each(|n| filter.add(hash(n)));
        assert!((0..100_000).all(|n| filter.may_have(hash(n))));
        let wrong = (100_000..200_000).filter(|n| filter.may_have(hash(*n))).count();
        assert!(wrong < 3_000, "{wrong} of 100,000");
    }
}
