//! A set of numbers, mostly neighbours: `1-5,9` in text.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Growing numbers; one may be in it several times, side by side. Kept as they stand in text, so that a text that lies takes no more memory
/// than it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// The numbers, in their order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.iter().fold(0, |sum: u64, (first, last)| sum.saturating_add((last - first).saturating_add(1)))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a number is among them.
    pub fn contains(&self, number: u64) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < number);
        self.0.get(at).is_some_and(|(first, _)| *first <= number)
    }

    /// Numbers that come next.
    fn push(&mut self, first: u64, last: u64) {
        match self.0.last_mut() {
            Some(before) if before.1.checked_add(1) == Some(first) => before.1 = last,
            _ => self.0.push((first, last)),
        }
    }

    /// Reads what `Display` writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut ranges = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
            if last < first {
                return None;
            }
            ranges.push(first, last);
        }
        Some(ranges)
    }
}

impl FromIterator<u64> for Ranges {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut ranges = Self::default();
        numbers.into_iter().for_each(|number| ranges.push(number, number));
        ranges
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (first, last)) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
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
            let read = Ranges::parse(text).expect("numbers");
            assert!(read == ranges && read.numbers().eq(numbers.iter().copied()));
            assert_eq!((read.len(), read.is_empty()), (numbers.len() as u64, numbers.is_empty()));
            assert!((0..20).all(|number| read.contains(number) == numbers.contains(&number)), "{text}");
        }
        for wrong in ["x", "3-1", "1-99999999999999999999", "1-"] {
            assert!(Ranges::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn many_numbers_take_no_memory() {
        let all = vec!["0-18446744073709551615"; 1_000].join(",");
        let ranges = Ranges::parse(&all).expect("numbers");
        assert!(ranges.len() == u64::MAX && ranges.contains(1 << 40) && ranges.to_string() == all);
    }
}
