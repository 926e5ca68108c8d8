//! A set of numbers, mostly neighbours: `1-5,9` in text.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Growing numbers; one may be in it several times, side by side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<u64>);

impl Ranges {
    /// The numbers, in their order.
    pub fn numbers(&self) -> &[u64] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads what `Display` writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        /// More than a file has batches: damage must not fill the memory.
        const MOST: u64 = 1 << 24;
        let mut numbers = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
            if last < first || last - first > MOST {
                return None;
            }
            numbers.extend(first..=last);
        }
        Some(Self(numbers))
    }
}

impl FromIterator<u64> for Ranges {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        Self(numbers.into_iter().collect())
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut separator = "";
        while let Some(first) = rest.first() {
            let run = rest.iter().zip(*first..).take_while(|(number, expected)| **number == *expected).count();
            match run {
                1 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{}", rest[run - 1])?,
            }
            (rest, separator) = (&rest[run..], ",");
        }
        Ok(())
    }
}

impl Serialize for Ranges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("'{text}' is no list of numbers")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_text_and_back() {
        for (numbers, text) in [
            (vec![], ""),
            (vec![7], "7"),
            (vec![1, 2, 3, 9, 11, 12], "1-3,9,11-12"),
            // A large piece lies in several batches.
            (vec![4, 4, 4, 5], "4,4,4-5"),
        ] {
            let ranges: Ranges = numbers.iter().copied().collect();
            assert_eq!(ranges.to_string(), text);
            assert_eq!(Ranges::parse(text).expect("numbers").numbers(), numbers);
        }
        for wrong in ["x", "3-1", "1-99999999999", "1-"] {
            assert!(Ranges::parse(wrong).is_none(), "{wrong}");
        }
    }
}
