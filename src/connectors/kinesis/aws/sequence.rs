//! Sequence numbers: decimal text of up to 128 digits, compared as numbers.
//!
//! As text `"9"` is after `"10"`; readers that compare so skip or repeat records when a number grows by a digit.

use std::cmp::Ordering;
use std::fmt;

/// The sequence number of a record, as the service wrote it: what is sent back must be the same text.
#[derive(Debug, Clone)]
pub(super) struct SequenceNumber(Box<str>);

impl SequenceNumber {
    /// A number, if `text` has digits only.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Self(text.into()))
    }

    /// Its digits.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        let (one, other) = (self.0.trim_start_matches('0'), other.0.trim_start_matches('0'));
        one.len().cmp(&other.len()).then_with(|| one.cmp(other))
    }
}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for SequenceNumber {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for SequenceNumber {}

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
        assert!(number("0010") == number("10") && number("0010").as_str() == "0010");
        let long = "49590338271490256608559692538361571095921575989136588898";
        assert!(number(long) < number("49590338271490256608559692538361571095921575989136588899"));
        for text in ["", "-1", "1a", "SHARD_END"] {
            assert!(SequenceNumber::parse(text).is_none(), "{text}");
        }
    }
}
