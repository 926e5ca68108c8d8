//! Sequence numbers: decimal text of up to 128 digits, compared as numbers.
//!
//! As text `"9"` is after `"10"`; readers that compare so skip or repeat records when a number grows by a digit.

use std::cmp::Ordering;
use std::fmt;

/// The sequence number of a record, without leading zeros.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SequenceNumber(Box<str>);

impl SequenceNumber {
    /// A number, if `text` has digits only.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = text.trim_start_matches('0');
        Some(Self(if digits.is_empty() { "0" } else { digits }.into()))
    }

    /// Its digits.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_as_numbers() {
        let number = |text: &str| SequenceNumber::parse(text).unwrap();
        assert!(number("9") < number("10"));
        assert!(number("0010") == number("10"));
        let long = "49590338271490256608559692538361571095921575989136588898";
        assert!(number(long) < number("49590338271490256608559692538361571095921575989136588899"));
        for text in ["", "-1", "1a", "SHARD_END"] {
            assert!(SequenceNumber::parse(text).is_none(), "{text}");
        }
    }
}
