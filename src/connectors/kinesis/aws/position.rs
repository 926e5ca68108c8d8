//! Where reading stands in a shard, as text that outlives the run.
//!
//! ```text
//! 4959…898@1700000000000     after that record, which arrived then
//! 4959…898/3@1700000000000   after user record 3 (from 0) of the aggregated record of that number
//! at 1700000000000           the first record that arrived at or after that time (LATEST, resolved once)
//! horizon                    the oldest record that is kept
//! ```
//!
//! What follows `@` is the time up to which the shard has been read: everything that arrived before it has been given
//! out. On a quiet shard it moves on with each answer that says "nothing newer", so that a position whose record has
//! aged out is told apart from one behind which records were lost.

use std::fmt;

use crate::contracts::{Error, Position, Result, StartPosition};

use super::sequence::SequenceNumber;

/// The next record to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The oldest that is kept.
    Horizon,
    /// The first at or after this time, in milliseconds since 1970.
    At(i64),
    /// The one after this; `after_sub` is the last user record that counted, where the record is an aggregate.
    After {
        /// A Kinesis record.
        sequence: SequenceNumber,
        /// A user record in it.
        after_sub: Option<u32>,
    },
}

/// A place, and up to when everything before it has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShardPosition {
    pub(super) place: Place,
    pub(super) read_until_ms: Option<i64>,
}

impl ShardPosition {
    pub(super) fn start(start: StartPosition) -> Result<Self> {
        let place = match start {
            StartPosition::TrimHorizon => Place::Horizon,
            StartPosition::AtTimestamp(ms) => Place::At(ms),
            StartPosition::Latest => return Err(Error::internal("LATEST was not resolved to a time")),
        };
        Ok(Self { place, read_until_ms: None })
    }

    pub(super) fn parse(position: &Position) -> Result<Self> {
        Self::read(&position.0).ok_or_else(|| {
            Error::corrupt(format!("position '{position}' is none of a Kinesis shard"))
                .hint("it was written by another program or for another source; start with --fresh")
        })
    }

    fn read(text: &str) -> Option<Self> {
        let (place, until) = match text.split_once('@') {
            Some((place, until)) => (place, Some(until.parse().ok()?)),
            None => (text, None),
        };
        let place = if place == "horizon" {
            Place::Horizon
        } else if let Some(ms) = place.strip_prefix("at ") {
            Place::At(ms.parse().ok()?)
        } else {
            let (number, sub) = match place.split_once('/') {
                Some((number, sub)) => (number, Some(sub.parse().ok()?)),
                None => (place, None),
            };
            Place::After { sequence: SequenceNumber::parse(number)?, after_sub: sub }
        };
        Some(Self { place, read_until_ms: until })
    }

    /// Everything that arrived before `ms` has been read; it never goes back.
    pub(super) fn read_until(&mut self, ms: i64) {
        self.read_until_ms = Some(self.read_until_ms.map_or(ms, |known| known.max(ms)));
    }

    /// Up to when nothing is left to read, milliseconds since 1970: it has been read, or was not asked for.
    pub(super) fn until_ms(&self) -> Option<i64> {
        self.read_until_ms.or(if let Place::At(ms) = self.place { Some(ms) } else { None })
    }

    pub(super) fn to_position(&self) -> Position {
        Position(self.to_string().into())
    }
}

impl fmt::Display for ShardPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Horizon => f.write_str("horizon")?,
            Place::At(ms) => write!(f, "at {ms}")?,
            Place::After { sequence, after_sub: None } => write!(f, "{sequence}")?,
            Place::After { sequence, after_sub: Some(sub) } => write!(f, "{sequence}/{sub}")?,
        }
        self.read_until_ms.map_or(Ok(()), |ms| write!(f, "@{ms}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["horizon", "horizon@5", "at 17", "at 17@20", "49590", "49590@3", "49590/0@3", "1/12"] {
            let position = ShardPosition::parse(&Position(text.into())).unwrap();
            assert_eq!(position.to_string(), text);
        }
        for text in ["", "LATEST", "at", "1/x", "1@", "12a"] {
            assert!(ShardPosition::parse(&Position(text.into())).is_err(), "{text}");
        }
    }
}
