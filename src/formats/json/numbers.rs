//! JSON numbers: checked by JSON's own grammar, and read as a small decimal in the same pass.
//!
//! Nearly all numbers have up to 18 digits and no exponent: those are a 64-bit integer and a count of
//! decimals, and become any type from there. The rest go the exact way, by
//! [`text::Number`](crate::formats::text::Number).

use crate::formats::text::{Number, POWERS_OF_TEN, TextError, decimal_limit, parse_f32, parse_f64};

use super::walk::byte;

/// As many digits as always fit 64 bits with a sign.
const SMALL_DIGITS: usize = 18;
/// Below this every integer is a double.
const EXACT_DOUBLE: u64 = 1 << 53;

/// `10^i` as doubles: up to 22 they are exact.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// A number as it stands in the record.
#[derive(Clone, Copy, Debug)]
pub(super) struct JsonNumber<'a> {
    pub text: &'a [u8],
    /// The digits as an integer, if the number is small.
    digits: u64,
    negative: bool,
    /// How many of the digits are decimals.
    decimals: usize,
    small: bool,
}

/// Place after the number that starts at `start`; the error is the place of the fault.
#[inline(always)]
pub(super) fn skip(text: &[u8], start: usize) -> Result<usize, usize> {
    scan(text, start).map(|(end, _)| end)
}

/// The number that starts at `start` and the place after it; the error is the place of the fault.
#[inline(always)]
pub(super) fn scan(text: &[u8], start: usize) -> Result<(usize, JsonNumber<'_>), usize> {
    let negative = byte(text, start) == b'-';
    let first = start + usize::from(negative);
    let mut digits = 0u64;
    let mut at = first;
    // Wraps for long numbers, which do not use it.
    let mut take = |at: usize| {
        let digit = byte(text, at).wrapping_sub(b'0');
        let is_digit = digit <= 9;
        if is_digit {
            digits = digits.wrapping_mul(10).wrapping_add(u64::from(digit));
        }
        is_digit
    };
    while take(at) {
        at += 1;
    }
    let whole = at - first;
    // At least one digit, and a zero stands alone.
    if whole == 0 || (whole > 1 && byte(text, first) == b'0') {
        return Err(first);
    }
    let mut decimals = 0;
    if byte(text, at) == b'.' {
        at += 1;
        let point = at;
        while take(at) {
            at += 1;
        }
        decimals = at - point;
        if decimals == 0 {
            return Err(at);
        }
    }
    let mut small = whole + decimals <= SMALL_DIGITS;
    if byte(text, at) | 0x20 == b'e' {
        at = skip_exponent(text, at)?;
        small = false;
    }
    let number = JsonNumber {
        text: text.get(start..at).unwrap_or_default(),
        digits,
        negative,
        decimals,
        small,
    };
    Ok((at, number))
}

#[cold]
fn skip_exponent(text: &[u8], start: usize) -> Result<usize, usize> {
    let mut at = start + 1;
    if matches!(byte(text, at), b'+' | b'-') {
        at += 1;
    }
    let first = at;
    while byte(text, at).is_ascii_digit() {
        at += 1;
    }
    if at == first { Err(at) } else { Ok(at) }
}

impl JsonNumber<'_> {
    #[inline(always)]
    fn signed(&self) -> i64 {
        let value = self.digits as i64;
        if self.negative { -value } else { value }
    }

    #[inline(always)]
    pub(super) fn to_i64(self) -> Result<i64, TextError> {
        if self.small && self.decimals == 0 {
            return Ok(self.signed());
        }
        Number::parse(self.text)?.to_i64()
    }

    #[inline(always)]
    pub(super) fn to_decimal(self, precision: u8, scale: i8) -> Result<i128, TextError> {
        let missing = usize::try_from(i64::from(scale) - self.decimals as i64);
        match missing {
            Ok(missing) if self.small && missing <= SMALL_DIGITS => {
                // Below 10^36: no overflow.
                let value = i128::from(self.digits) * POWERS_OF_TEN[missing];
                if value >= decimal_limit(precision) {
                    return Err(TextError::OutOfRange);
                }
                Ok(if self.negative { -value } else { value })
            }
            _ => Number::parse(self.text)?.to_decimal(precision, scale),
        }
    }

    #[inline(always)]
    pub(super) fn to_f64(self) -> Result<f64, TextError> {
        if self.small && self.digits < EXACT_DOUBLE && self.decimals < EXACT_POWERS.len() {
            // Both operands are exact, so one division rounds once: the nearest double (Clinger 1990).
            let value = self.digits as f64 / EXACT_POWERS[self.decimals];
            return Ok(if self.negative { -value } else { value });
        }
        parse_f64(self.text)
    }

    pub(super) fn to_f32(self) -> Result<f32, TextError> {
        parse_f32(self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn padded(text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.extend_from_slice(&[0; 64]);
        bytes
    }

    #[test]
    fn grammar_is_that_of_json() {
        for text in ["0", "-0", "10", "1.5", "-1.25e10", "0e0", "1E+5", "1e-5", "0.0", "123456789012345678901234567890"] {
            assert_eq!(skip(&padded(text), 0), Ok(text.len()), "{text}");
        }
        for text in ["", "-", "01", "-01", "00", "1.", ".5", "1.e5", "1e", "1e+", "+1", "--1", "e5"] {
            assert!(skip(&padded(text), 0).is_err(), "{text}");
        }
    }

    #[test]
    fn small_and_large_take_the_same_way() {
        for text in [
            "0", "-0", "7", "517.23", "-0.005", "0.015", "999999999999999999", "9999999999999999999", "1e2", "12345678.901234567", "0.1", "-2.5e-3",
            "9007199254740993", "123456789012345678", "0.30000000000000004", "1.005",
        ] {
            let bytes = padded(text);
            let (_, number) = scan(&bytes, 0).expect(text);
            let exact = Number::parse(text.as_bytes()).expect(text);
            assert_eq!(number.to_i64(), exact.to_i64(), "{text}");
            assert_eq!(number.to_f64().map(f64::to_bits), Ok(text.parse::<f64>().expect(text).to_bits()), "{text}");
            for (precision, scale) in [(12, 2), (38, 10), (5, 0), (38, 38), (20, 18), (4, -1)] {
                assert_eq!(number.to_decimal(precision, scale), exact.to_decimal(precision, scale), "{text} {precision} {scale}");
            }
        }
    }
}
