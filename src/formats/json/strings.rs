//! JSON strings: finding their end, checking and undoing escapes, and the views that Arrow has of them.
//!
//! A scan checks everything but UTF-8 (which is checked for the record as a whole, and only when a byte
//! above 0x7F was seen): control characters and bad escapes are refused, lone surrogates too. So
//! [`unescape`] works on text that was scanned and has nothing left to refuse.

use super::simd::{STEP, Simd};
use super::walk::byte;

/// Longest text that a view holds in itself.
const INLINE: usize = 12;

/// A string's end and whether it has escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Place of the closing quote.
    pub end: usize,
    pub escaped: bool,
}

/// Scans the string whose first character (after the quote) is at `start`.
///
/// `high` is as in [`Simd::string_stop`]. On a fault the error is the place of it.
#[inline(always)]
pub(super) fn scan<S: Simd>(simd: S, text: &[u8], start: usize, high: &mut u64) -> Result<Scanned, usize> {
    let Some(end) = simd.string_stop(text, start, high) else {
        return Err(text.len());
    };
    if byte(text, end) == b'"' {
        return Ok(Scanned { end, escaped: false });
    }
    scan_escaped(text, end, high)
}

/// Goes on from a backslash (or from a control character, which is refused) byte by byte.
#[cold]
fn scan_escaped(text: &[u8], stop: usize, high: &mut u64) -> Result<Scanned, usize> {
    let mut at = stop;
    loop {
        match text.get(at) {
            Some(b'"') => return Ok(Scanned { end: at, escaped: true }),
            Some(b'\\') => at += escape_length(text, at).ok_or(at)?,
            None | Some(..0x20) => return Err(at),
            Some(other) => {
                *high |= u64::from(*other >> 7);
                at += 1;
            }
        }
    }
}

/// Bytes of the escape that begins with the backslash at `at`; `None` if it is none.
fn escape_length(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at + 1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => match hex(text, at + 2)? {
            // A high surrogate must be followed by a low one; a low one never comes first.
            0xD800..=0xDBFF => {
                let follows = byte(text, at + 6) == b'\\' && byte(text, at + 7) == b'u';
                (follows && matches!(hex(text, at + 8)?, 0xDC00..=0xDFFF)).then_some(12)
            }
            0xDC00..=0xDFFF => None,
            _ => Some(6),
        },
        _ => None,
    }
}

fn hex(text: &[u8], at: usize) -> Option<u32> {
    text.get(at..at + 4)?
        .iter()
        .try_fold(0, |value, digit| Some(value * 16 + char::from(*digit).to_digit(16)?))
}

/// Appends the text of a scanned string's raw bytes to `out`.
pub(super) fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let used = match rest.get(at + 1) {
            Some(b'u') => unescape_unicode(rest, at, out),
            Some(b'b') => push(out, 0x08),
            Some(b'f') => push(out, 0x0C),
            Some(b'n') => push(out, b'\n'),
            Some(b'r') => push(out, b'\r'),
            Some(b't') => push(out, b'\t'),
            Some(other) => push(out, *other),
            None => 1,
        };
        rest = rest.get(at + used..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}

fn push(out: &mut Vec<u8>, byte: u8) -> usize {
    out.push(byte);
    2
}

fn unescape_unicode(text: &[u8], at: usize, out: &mut Vec<u8>) -> usize {
    let (mut code, mut used) = (hex(text, at + 2).unwrap_or_default(), 6);
    if let 0xD800..=0xDBFF = code {
        let low = hex(text, at + 8).unwrap_or_default();
        code = 0x10000 + ((code & 0x3FF) << 10) + (low & 0x3FF);
        used = 12;
    }
    let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    used
}

#[inline(always)]
pub(super) fn block(text: &[u8], at: usize) -> Option<&[u8; STEP]> {
    text.get(at..)?.first_chunk()
}

/// The Utf8View of `text[start..end]`, which lies at `offset` of buffer `buffer` if it is long.
#[inline(always)]
pub(super) fn long_view(text: &[u8], start: usize, length: usize, buffer: u32, offset: u32) -> u128 {
    let prefix = text.get(start..).and_then(|rest| rest.first_chunk::<4>());
    let prefix = u32::from_le_bytes(*prefix.unwrap_or(&[0; 4]));
    (length as u128) | u128::from(prefix) << 32 | u128::from(buffer) << 64 | u128::from(offset) << 96
}

/// True if a text of this length stands in its view.
#[inline(always)]
pub(super) fn is_inline(length: usize) -> bool {
    length <= INLINE
}

/// The Utf8View of the short text at `start`; zero (the empty text) if 16 bytes cannot be read there.
#[inline(always)]
pub(super) fn inline_view(text: &[u8], start: usize, length: usize) -> u128 {
    /// All ones in the low `i` bytes.
    const MASKS: [u128; INLINE + 1] = {
        let mut masks = [0; INLINE + 1];
        let mut i = 1;
        while i <= INLINE {
            masks[i] = masks[i - 1] << 8 | 0xFF;
            i += 1;
        }
        masks
    };
    let Some(bytes) = text.get(start..).and_then(|rest| rest.first_chunk::<16>()) else {
        return 0;
    };
    (u128::from_le_bytes(*bytes) & MASKS[length]) << 32 | length as u128
}

#[cfg(test)]
mod tests {
    use super::super::simd::Portable;
    use super::*;
    use arrow::array::StringViewArray;
    use arrow::array::builder::make_view;

    fn scanned(content: &str) -> Option<(Scanned, String)> {
        let mut text = content.as_bytes().to_vec();
        text.extend_from_slice(&[0; 64]);
        let found = scan(Portable, &text, 0, &mut 0).ok()?;
        let mut out = Vec::new();
        unescape(&text[..found.end], &mut out);
        Some((found, String::from_utf8(out).expect("unescaped text is UTF-8")))
    }

    #[test]
    fn ends_and_escapes() {
        let long = "x".repeat(100);
        for (content, text) in [
            (r#"" tail"#, ""), (r#"abc""#, "abc"), (r#"a\"b""#, "a\"b"), (r#"\\""#, "\\"), (r#"\/\b\f\n\r\t""#, "/\u{8}\u{c}\n\r\t"),
            (r#"\u0041\u00e9\u20AC""#, "Aé€"), (r#"\ud83d\ude00!""#, "😀!"), ("é\u{7f}\"", "é\u{7f}"), (r#"\u0000""#, "\0"),
        ] {
            assert_eq!(scanned(content).expect(content).1, text);
            assert_eq!(scanned(&format!("{long}{content}")).expect(content).1, format!("{long}{text}"));
        }
    }

    #[test]
    fn faults_are_refused() {
        for content in [
            "no end", "tab\t\"", "nul\0\"", r#"\x""#, r#"\u12""#, r#"\u12g4""#, r#"\ud800""#, r#"\udc00""#, r#"\ud800\n""#, r#"\ud800\u0041""#,
            r#"\ud800\ud800""#, r"\", r#"\U0041""#,
        ] {
            assert_eq!(scanned(content), None, "{content}");
        }
    }

    #[test]
    fn high_bytes_are_noticed_wherever_they_stand() {
        for content in ["é\"", "\\né\"", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxé\""] {
            let mut text = content.as_bytes().to_vec();
            text.extend_from_slice(&[0; 64]);
            let mut high = 0;
            assert!(scan(Portable, &text, 0, &mut high).is_ok());
            assert_ne!(high, 0, "{content}");
        }
    }

    #[test]
    fn views_are_those_of_arrow() {
        let mut text = b"0123456789abcdefghij".to_vec();
        text.extend_from_slice(&[0xFF; 64]);
        for length in 0..=20 {
            let expected = make_view(&text[..length], 3, 77);
            let view = if is_inline(length) { inline_view(&text, 0, length) } else { long_view(&text, 0, length, 3, 77) };
            assert_eq!(view, expected, "{length}");
        }
        let _ = StringViewArray::from(vec!["x"]);
    }
}
