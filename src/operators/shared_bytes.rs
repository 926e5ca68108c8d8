//! Bytes that many have in memory together: each counts its own, and sees how many they are in all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What all have. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SharedBytes(Arc<AtomicUsize>);

/// What one of them has; it is given back when this goes.
#[derive(Debug)]
pub struct BytesPart {
    all: SharedBytes,
    own: usize,
}

impl SharedBytes {
    /// How many there are.
    pub fn sum(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// For another one, which has none yet.
    pub fn part(&self) -> BytesPart {
        BytesPart { all: self.clone(), own: 0 }
    }
}

impl BytesPart {
    /// Notes how many it has now. Answers how many all have together.
    pub fn set(&mut self, bytes: usize) -> usize {
        let before = std::mem::replace(&mut self.own, bytes);
        match bytes.checked_sub(before) {
            Some(more) => self.all.0.fetch_add(more, Ordering::Relaxed) + more,
            None => self.all.0.fetch_sub(before - bytes, Ordering::Relaxed) - (before - bytes),
        }
    }

    /// How many it has.
    pub fn own(&self) -> usize {
        self.own
    }
}

impl Drop for BytesPart {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_counts_once_and_is_given_back() {
        let all = SharedBytes::default();
        let (mut first, mut second) = (all.part(), all.part());
        assert_eq!([first.set(60), second.set(30), first.set(10), first.set(25)], [60, 90, 40, 55]);
        assert_eq!((all.sum(), first.own()), (55, 25));
        drop(first);
        assert_eq!(all.clone().sum(), 30);
        drop(second);
        assert_eq!(all.sum(), 0);
    }
}
