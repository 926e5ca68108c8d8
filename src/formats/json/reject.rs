//! Why a record was refused.

/// The kind of fault; [`as_str`](Self::as_str) is what the error output and the counters show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectReason {
    /// Not JSON: broken off, a stray character, a control character in a string, …
    InvalidJson,
    /// Some bytes are not UTF-8.
    InvalidUtf8,
    /// JSON, but not an object.
    NotAnObject,
    /// Objects and arrays nested too deep.
    TooDeep,
    /// A value that its column's type cannot be read from.
    WrongType,
    /// A number too large for its column, or a time that its unit cannot hold.
    OutOfRange,
    /// A NOT NULL column without a value.
    MissingField,
    /// Not a timestamp in the format asked for.
    BadTimestamp,
    /// Not a date `yyyy-MM-dd`.
    BadDate,
    /// Not a time of day `HH:mm[:ss[.fraction]]`.
    BadTime,
    /// Not base64 with padding.
    BadBase64,
    /// The range does not lie in the chunk, or the record is over 2 GiB.
    BadRange,
}

impl RejectReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::NotAnObject => "not_an_object",
            Self::TooDeep => "too_deep",
            Self::WrongType => "wrong_type",
            Self::OutOfRange => "out_of_range",
            Self::MissingField => "missing_field",
            Self::BadTimestamp => "bad_timestamp",
            Self::BadDate => "bad_date",
            Self::BadTime => "bad_time",
            Self::BadBase64 => "bad_base64",
            Self::BadRange => "bad_range",
        }
    }
}

/// A record that did not become a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Its place among the records of the call.
    pub record: u32,
    pub reason: RejectReason,
    /// Dotted path of the column whose value is at fault; `[]` stands for a list's or map's items.
    pub column: Option<String>,
    /// What was found, for people; cut to about 100 characters.
    pub detail: String,
}

/// Characters of a value that a detail quotes.
const QUOTED: usize = 80;

/// The text as a detail may show it: cut, and readable whatever its bytes are.
pub(super) fn excerpt(text: &[u8]) -> String {
    let cut = &text[..text.len().min(4 * QUOTED)];
    let shown = String::from_utf8_lossy(cut);
    let mut short: String = shown.chars().take(QUOTED).collect();
    if short.len() < text.len() && (cut.len() < text.len() || shown.chars().count() > QUOTED) {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_short_and_never_split_a_character() {
        assert_eq!(excerpt(b"free"), "free");
        assert_eq!(excerpt("é".repeat(200).as_bytes()), format!("{}…", "é".repeat(80)));
        assert_eq!(excerpt(&[0xFF, b'a']), "\u{FFFD}a");
        assert_eq!(excerpt("x".repeat(80).as_bytes()).chars().count(), 80);
    }
}
