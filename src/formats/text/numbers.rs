//! Numbers from their decimal text.
//!
//! A [`Number`] is the text cut into its parts, and each conversion picks the digits it needs by their
//! place: an exponent is arithmetic on places, so `1e999999999` costs no more than `1`.

use super::TextError;

/// `10^i` for every power that an `i128` holds a DECIMAL of.
pub const POWERS_OF_TEN: [i128; 39] = {
    let mut powers = [1i128; 39];
    let mut i = 1;
    while i < 39 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// Beyond this an exponent makes any text of less than 4 GiB overflow or vanish, so it may saturate.
const EXPONENT_LIMIT: i64 = 1 << 40;

/// The first absolute value that a DECIMAL of this precision does not hold.
pub fn decimal_limit(precision: u8) -> i128 {
    POWERS_OF_TEN[usize::from(precision.min(38))]
}

/// A number's text in parts: `[sign] whole [. fraction] [e exponent]`.
///
/// Takes more than JSON does (`+5`, `007`, `.5`, `5.`), since numbers in strings and in CSV are written
/// by people; whoever must be strict checks the grammar first.
#[derive(Clone, Copy, Debug)]
pub struct Number<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

impl<'a> Number<'a> {
    /// Cuts `text`, all of it, into a number's parts.
    pub fn parse(text: &'a [u8]) -> Result<Self, TextError> {
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        let (whole, text) = split_digits(text);
        let (fraction, text) = match text {
            [b'.', rest @ ..] => split_digits(rest),
            _ => (&text[..0], text),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(TextError::Malformed);
        }
        let exponent = match text {
            [] => 0,
            [b'e' | b'E', rest @ ..] => parse_exponent(rest)?,
            _ => return Err(TextError::Malformed),
        };
        Ok(Self {
            negative,
            whole,
            fraction,
            exponent,
        })
    }

    /// The digit at `place`, counted from the first digit written; zero beyond the last one.
    fn digit(&self, place: i64) -> u8 {
        let Ok(place) = usize::try_from(place) else {
            return 0;
        };
        let fraction_place = place.wrapping_sub(self.whole.len());
        self.whole
            .get(place)
            .or_else(|| self.fraction.get(fraction_place))
            .map_or(0, |d| d - b'0')
    }

    /// Place of the first digit that is not zero; `None` for zero itself.
    fn first_significant(&self) -> Option<i64> {
        let digits = self.whole.iter().chain(self.fraction);
        digits
            .into_iter()
            .position(|d| *d != b'0')
            .map(|place| place as i64)
    }

    fn written_digits(&self) -> i64 {
        (self.whole.len() + self.fraction.len()) as i64
    }

    /// The digits from `first` up to `end`, as one integer; at most 38 of them.
    fn accumulate(&self, first: i64, end: i64) -> i128 {
        (first..end).fold(0, |sum, place| sum * 10 + i128::from(self.digit(place)))
    }

    /// The number as an integer, if it is one: `1.0` and `1e2` are, `1.5` is malformed.
    pub fn to_i64(&self) -> Result<i64, TextError> {
        let Some(first) = self.first_significant() else {
            return Ok(0);
        };
        let point = self.whole.len() as i64 + self.exponent;
        let fraction_start = point.max(first);
        if (fraction_start..self.written_digits()).any(|place| self.digit(place) != 0) {
            return Err(TextError::Malformed);
        }
        // i64 has at most 19 digits.
        if point - first > 19 {
            return Err(TextError::OutOfRange);
        }
        let magnitude = self.accumulate(first, point);
        let value = if self.negative { -magnitude } else { magnitude };
        i64::try_from(value).map_err(|_| TextError::OutOfRange)
    }

    /// The unscaled value of a DECIMAL(precision, scale), rounded half-up (away from zero, as SQL and
    /// Java's `HALF_UP` have it).
    pub fn to_decimal(&self, precision: u8, scale: i8) -> Result<i128, TextError> {
        let Some(first) = self.first_significant() else {
            return Ok(0);
        };
        let end = self.whole.len() as i64 + self.exponent + i64::from(scale);
        if end < first {
            return Ok(0);
        }
        if end - first > 38 {
            return Err(TextError::OutOfRange);
        }
        let round_up = self.digit(end) >= 5;
        let magnitude = self.accumulate(first, end) + i128::from(round_up);
        if magnitude >= decimal_limit(precision) {
            return Err(TextError::OutOfRange);
        }
        Ok(if self.negative { -magnitude } else { magnitude })
    }
}

fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    text.split_at(digits)
}

fn parse_exponent(text: &[u8]) -> Result<i64, TextError> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if text.is_empty() {
        return Err(TextError::Malformed);
    }
    let mut exponent = 0i64;
    for byte in text {
        if !byte.is_ascii_digit() {
            return Err(TextError::Malformed);
        }
        exponent = (exponent * 10 + i64::from(byte - b'0')).min(EXPONENT_LIMIT);
    }
    Ok(if negative { -exponent } else { exponent })
}

/// The nearest DOUBLE (ties to even). Infinity is out of range, unless it is written as such: `NaN`,
/// `Infinity` and `-Infinity` are what Java, and so Flink, reads.
pub fn parse_f64(text: &[u8]) -> Result<f64, TextError> {
    if let Some(value) = special_float(text) {
        return Ok(value);
    }
    let value: f64 = float_text(text)?
        .parse()
        .map_err(|_| TextError::Malformed)?;
    if value.is_finite() { Ok(value) } else { Err(TextError::OutOfRange) }
}

/// The nearest FLOAT; see [`parse_f64`]. Parsed as one, since rounding to double first rounds twice.
pub fn parse_f32(text: &[u8]) -> Result<f32, TextError> {
    if let Some(value) = special_float(text) {
        return Ok(value as f32);
    }
    let value: f32 = float_text(text)?
        .parse()
        .map_err(|_| TextError::Malformed)?;
    if value.is_finite() { Ok(value) } else { Err(TextError::OutOfRange) }
}

fn special_float(text: &[u8]) -> Option<f64> {
    match text {
        b"NaN" => Some(f64::NAN),
        b"Infinity" | b"+Infinity" => Some(f64::INFINITY),
        b"-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// `text` as `str` once it is known to be a number: Rust's parser alone would take `inf` and `nan` too.
fn float_text(text: &[u8]) -> Result<&str, TextError> {
    Number::parse(text)?;
    std::str::from_utf8(text).map_err(|_| TextError::Malformed)
}

/// `true` and `false` in any case.
pub fn parse_bool(text: &[u8]) -> Result<bool, TextError> {
    if text.eq_ignore_ascii_case(b"true") {
        Ok(true)
    } else if text.eq_ignore_ascii_case(b"false") {
        Ok(false)
    } else {
        Err(TextError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TextError::{Malformed, OutOfRange};

    fn integer(text: &str) -> Result<i64, TextError> {
        Number::parse(text.as_bytes())?.to_i64()
    }

    fn decimal(text: &str, precision: u8, scale: i8) -> Result<i128, TextError> {
        Number::parse(text.as_bytes())?.to_decimal(precision, scale)
    }

    #[test]
    fn integers_are_whole_or_refused() {
        assert_eq!(integer("0"), Ok(0));
        assert_eq!(integer("-0"), Ok(0));
        assert_eq!(integer("1.0"), Ok(1));
        assert_eq!(integer("1e2"), Ok(100));
        assert_eq!(integer("1200e-2"), Ok(12));
        assert_eq!(integer("0.00012e5"), Ok(12));
        assert_eq!(integer("1.5"), Err(Malformed));
        assert_eq!(integer("1e-1"), Err(Malformed));
        assert_eq!(integer("0.000"), Ok(0));
        assert_eq!(integer("0e999999999999999999999"), Ok(0));
        assert_eq!(integer("9223372036854775807"), Ok(i64::MAX));
        assert_eq!(integer("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(integer("9223372036854775808"), Err(OutOfRange));
        assert_eq!(integer("1e999999999"), Err(OutOfRange));
        assert_eq!(integer("1e-999999999"), Err(Malformed));
        assert_eq!(integer(&format!("1{}e-70", "0".repeat(70))), Ok(1));
    }

    #[test]
    fn text_that_is_no_number_is_malformed() {
        for text in ["", "-", "+", ".", "e5", "1e", "1e+", "1x", "--1", "0x10", "1_0", "NaN", "1.2.3", " 1"] {
            assert_eq!(integer(text), Err(Malformed), "{text:?}");
        }
        for text in ["+5", "005", "5.", "0.5e1", ".5e1"] {
            assert_eq!(integer(text), Ok(5), "{text:?}");
        }
    }

    #[test]
    fn decimals_round_half_up_and_never_overflow_in_silence() {
        assert_eq!(decimal("19.99", 12, 2), Ok(1999));
        assert_eq!(decimal("0.005", 12, 2), Ok(1));
        assert_eq!(decimal("-0.005", 12, 2), Ok(-1));
        assert_eq!(decimal("0.00499999999999999999999999", 12, 2), Ok(0));
        assert_eq!(decimal("9.995", 3, 2), Err(OutOfRange));
        assert_eq!(decimal("9.994", 3, 2), Ok(999));
        assert_eq!(decimal("1e3", 6, 2), Ok(100_000));
        assert_eq!(decimal("1e4", 6, 2), Err(OutOfRange));
        assert_eq!(decimal("1e-999999999999", 6, 2), Ok(0));
        assert_eq!(decimal("1e999999999999", 6, 2), Err(OutOfRange));
        assert_eq!(decimal("0e999999999999", 6, 2), Ok(0));
        assert_eq!(decimal("0.5", 1, 0), Ok(1));
        assert_eq!(decimal("0.4", 1, 0), Ok(0));
        assert_eq!(decimal("1550", 5, -2), Ok(16));
        assert_eq!(decimal(&"9".repeat(38), 38, 0), Ok(POWERS_OF_TEN[38] - 1));
        assert_eq!(decimal(&"9".repeat(39), 38, 0), Err(OutOfRange));
        assert_eq!(decimal(&format!("0.{}", "9".repeat(60)), 38, 10), Ok(10_000_000_000));
        assert_eq!(decimal(&format!("{}1.25", "0".repeat(60)), 5, 2), Ok(125));
    }

    #[test]
    fn floats_are_nearest_and_finite() {
        assert_eq!(parse_f64(b"0.1"), Ok(0.1));
        assert_eq!(parse_f64(b"1e400"), Err(OutOfRange));
        assert_eq!(parse_f64(b"1e-400"), Ok(0.0));
        assert_eq!(parse_f64(b"inf"), Err(Malformed));
        assert!(parse_f64(b"NaN").is_ok_and(f64::is_nan));
        // 16777217 is halfway between two floats; by way of a double it would round wrongly.
        assert_eq!(parse_f32(b"16777217.0000001"), Ok(16_777_218.0));
        assert_eq!(parse_f32(b"1e39"), Err(OutOfRange));
    }
}
