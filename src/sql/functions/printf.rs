//! `PRINTF(format, …)` with the conversions of `java.util.Formatter` that SQL values have: `%d %s %f %e %x %X
//! %o %b %c %n %%`, with width, precision, the flags `- 0 + , ( space`, and arguments by number (`%2$s`) or once more
//! (`%<s`). A format that does not fit its arguments gives NULL, as in Flink. `%f` and `%e` round the shortest text of a
//! double half up, as Java does; decimals, which Flink gives NULL for, all their digits.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array};
use arrow::datatypes::Decimal128Type;
use datafusion::common::Result;

use super::call::{Call, Column};
use super::cast_text::TextOf;
use super::function::{Definition, Nulls, Returns, define};

pub(crate) const PRINTF: Definition = define("printf", "s[a*", Returns::Text, Nulls::Possible, printf);

/// Widths past this are not padding but a mistake.
const WIDEST: usize = 10_000;

struct Value {
    text: Column<TextOf>,
    numbers: Option<Column<arrow::array::Int64Array>>,
    doubles: Option<Column<arrow::array::Float64Array>>,
    decimals: Option<Column<Decimal128Array>>,
}

impl Value {
    /// The digits of a row's fractional number, and whether it is negative.
    fn digits(&self, row: usize) -> Option<(bool, Digits)> {
        if let Some(decimals) = &self.decimals {
            let value = decimals.array.value(decimals.index(row));
            let scale = i64::from(decimals.array.scale());
            return Some((value < 0, Digits { unscaled: value.unsigned_abs(), scale }));
        }
        let value = self.doubles.as_ref()?.get(row)?;
        let text = format!("{:e}", value.abs());
        let (mantissa, exponent) = text.split_once('e')?;
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let scale = fraction.len() as i64 - exponent.parse::<i64>().ok()?;
        // At most 17 digits.
        Some((value < 0.0, Digits { unscaled: format!("{whole}{fraction}").parse().ok()?, scale }))
    }
}

/// A number without its sign: `unscaled / 10^scale`.
struct Digits {
    unscaled: u128,
    scale: i64,
}

impl Digits {
    /// Without the last `drop` digits, half up.
    fn without(&self, drop: i64) -> u128 {
        match u32::try_from(drop).ok().map(|drop| 10u128.checked_pow(drop)) {
            None => self.unscaled,
            Some(None) => 0,
            Some(Some(unit)) => self.unscaled / unit + u128::from(self.unscaled % unit >= unit.div_ceil(2) && unit > 1),
        }
    }

    /// Digits before and after the point, `precision` of the latter.
    fn fixed(&self, precision: usize) -> (String, String) {
        let drop = self.scale - precision as i64;
        let mut digits = self.without(drop).to_string();
        digits.extend(std::iter::repeat_n('0', usize::try_from(-drop).unwrap_or(0)));
        let mut digits = format!("{digits:0>width$}", width = precision + 1);
        let fraction = digits.split_off(digits.len() - precision);
        (digits, fraction)
    }

    /// One digit before the point, `precision` after it, and the exponent.
    fn scientific(&self, precision: usize) -> (String, i64) {
        let length = self.unscaled.to_string().len() as i64;
        let rounded = self.without(length - precision as i64 - 1).to_string();
        let carried = (rounded.len() as i64).min(precision as i64 + 2) > length.min(precision as i64 + 1);
        let exponent = if self.unscaled == 0 { 0 } else { length - 1 - self.scale + i64::from(carried) };
        let digits = format!("{rounded:0<width$}", width = precision + 1);
        let (whole, fraction) = digits[..=precision].split_at(1);
        let point = if fraction.is_empty() { "" } else { "." };
        (format!("{whole}{point}{fraction}"), exponent)
    }
}

/// Which argument a conversion prints.
#[derive(Debug, Default, Clone, Copy)]
enum Argument {
    /// The next one that no conversion has named.
    #[default]
    Next,
    /// `%<s`: the one before.
    Again,
    /// `%2$s`: from 1.
    Number(usize),
}

/// A conversion such as `%-10.2f`.
#[derive(Debug, Default)]
struct Conversion {
    argument: Argument,
    left: bool,
    zero: bool,
    plus: bool,
    space: bool,
    group: bool,
    parentheses: bool,
    width: usize,
    precision: Option<usize>,
    letter: char,
}

fn printf(call: &Call) -> Result<ArrayRef> {
    let formats = call.strings(0)?;
    let mut values = vec![];
    for i in 1..call.args.len() {
        let raw = call.raw(i)?;
        let data_type = raw.array.data_type().clone();
        let text = Column { array: TextOf::new(&raw.array, call.context.time_zone)?, constant: raw.constant };
        let numbers = if data_type.is_integer() { Some(call.integers(i)?) } else { None };
        let doubles = if data_type.is_floating() { Some(call.doubles(i)?) } else { None };
        let decimals = raw.array.as_primitive_opt::<Decimal128Type>().cloned();
        let decimals = decimals.map(|array| Column { array, constant: raw.constant });
        values.push(Value { text, numbers, doubles, decimals });
    }
    call.try_text(|row| match formats.get(row) {
        Some(format) => print(format, &values, row),
        None => Ok(None),
    })
}

fn print(format: &str, values: &[Value], row: usize) -> Result<Option<String>> {
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    let (mut next, mut last) = (0, None);
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let Some(conversion) = Conversion::parse(&mut chars) else { return Ok(None) };
        match conversion.letter {
            '%' => conversion.pad("%", &mut out),
            'n' => out.push('\n'),
            _ => {
                let place = match conversion.argument {
                    Argument::Next => Some(next),
                    Argument::Again => last,
                    Argument::Number(number) => number.checked_sub(1),
                };
                let Some((place, value)) = place.and_then(|place| Some((place, values.get(place)?))) else {
                    return Ok(None);
                };
                next += usize::from(matches!(conversion.argument, Argument::Next));
                last = Some(place);
                let Some(text) = conversion.print(value, row)? else { return Ok(None) };
                conversion.pad(&text, &mut out);
            }
        }
    }
    Ok(Some(out))
}

/// The digits that come next.
fn digits(chars: &mut std::iter::Peekable<std::str::Chars>) -> String {
    std::iter::from_fn(|| chars.next_if(char::is_ascii_digit)).collect()
}

impl Conversion {
    fn parse(chars: &mut std::iter::Peekable<std::str::Chars>) -> Option<Conversion> {
        let mut conversion = Conversion::default();
        let mut ahead = chars.clone();
        let number = digits(&mut ahead);
        if !number.is_empty() && ahead.next() == Some('$') {
            conversion.argument = Argument::Number(number.parse().ok()?);
            *chars = ahead;
        }
        while let Some(flag) = chars.next_if(|c| "-0+ ,(<".contains(*c)) {
            match flag {
                '<' => conversion.argument = Argument::Again,
                '(' => conversion.parentheses = true,
                '-' => conversion.left = true,
                '0' => conversion.zero = true,
                '+' => conversion.plus = true,
                ' ' => conversion.space = true,
                _ => conversion.group = true,
            }
        }
        conversion.width = digits(chars).parse().unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            conversion.precision = Some(digits(chars).parse().ok()?);
        }
        conversion.letter = chars.next()?;
        let fits = conversion.width <= WIDEST && conversion.precision.unwrap_or(0) <= WIDEST;
        fits.then_some(conversion)
    }

    fn print(&self, value: &Value, row: usize) -> Result<Option<String>> {
        let at = value.text.index(row);
        if value.text.array.is_null(at) {
            return Ok(Some(if self.letter == 'b' { "false" } else { "null" }.into()));
        }
        let number = value.numbers.as_ref().and_then(|numbers| numbers.get(row));
        let double = value.doubles.as_ref().and_then(|doubles| doubles.get(row));
        if let ('f' | 'e' | 'E', Some(double)) = (self.letter, double.filter(|double| !double.is_finite())) {
            let text = if double.is_nan() { "NaN" } else { "Infinity" };
            return Ok(Some(self.signed(double < 0.0, text.into(), false)));
        }
        Ok(match (self.letter, number, value.digits(row)) {
            ('d', Some(number), _) => Some(self.sign(number < 0, self.grouped(number.unsigned_abs().to_string()))),
            ('x', Some(number), _) => Some(format!("{number:x}")),
            ('X', Some(number), _) => Some(format!("{number:X}")),
            ('o', Some(number), _) => Some(format!("{number:o}")),
            ('c', Some(number), _) => u32::try_from(number).ok().and_then(char::from_u32).map(String::from),
            ('f', _, Some((negative, number))) => {
                let (whole, fraction) = number.fixed(self.precision.unwrap_or(6));
                let point = if fraction.is_empty() { "" } else { "." };
                Some(self.sign(negative, format!("{}{point}{fraction}", self.grouped(whole))))
            }
            ('e' | 'E', _, Some((negative, number))) => {
                let (mantissa, exponent) = number.scientific(self.precision.unwrap_or(6));
                let (letter, sign) = (self.letter, if exponent < 0 { '-' } else { '+' });
                Some(self.sign(negative, format!("{mantissa}{letter}{sign}{:02}", exponent.abs())))
            }
            ('s' | 'S' | 'b', ..) => {
                let mut text = String::new();
                value.text.array.write(at, &mut text)?;
                let text: String = text.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
                Some(match self.letter {
                    'S' => text.to_uppercase(),
                    'b' => text.to_lowercase(),
                    _ => text,
                })
            }
            _ => None,
        })
    }

    fn sign(&self, negative: bool, digits: String) -> String {
        self.signed(negative, digits, self.zero && !self.left)
    }

    fn signed(&self, negative: bool, digits: String, zeros: bool) -> String {
        let (sign, end) = match (negative, self.parentheses, self.plus, self.space) {
            (true, true, ..) => ("(", ")"),
            (true, ..) => ("-", ""),
            (_, _, true, _) => ("+", ""),
            (_, _, _, true) => (" ", ""),
            _ => ("", ""),
        };
        let width = if zeros { self.width.saturating_sub(sign.len() + end.len()) } else { 0 };
        format!("{sign}{digits:0>width$}{end}")
    }

    /// With commas between thousands.
    fn grouped(&self, digits: String) -> String {
        if !self.group {
            return digits;
        }
        let mut out = String::new();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                out.push(',');
            }
            out.push(digit);
        }
        out
    }

    fn pad(&self, text: &str, out: &mut String) {
        let width = self.width;
        let zero = self.zero && "xXo".contains(self.letter);
        let _ = match (self.left, zero) {
            (true, _) => write!(out, "{text:<width$}"),
            (_, true) => write!(out, "{text:0>width$}"),
            _ => write!(out, "{text:>width$}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_round_half_up() {
        for (unscaled, scale, precision, fixed, scientific) in [
            (0, 0, 2, "0.00", "0.00e0"),
            (125, 3, 2, "0.13", "1.25e-1"),
            (5, 1, 0, "1", "5e-1"),
            (99_996, 4, 3, "10.000", "1.000e1"),
            (9_995, 0, 2, "9995.00", "1.00e4"),
            (25, 0, 0, "25", "3e1"),
            (1, -23, 1, "100000000000000000000000.0", "1.0e23"),
            (1, 60, 2, "0.00", "1.00e-60"),
            (u128::MAX, 0, 0, "340282366920938463463374607431768211455", "3e38"),
        ] {
            let number = Digits { unscaled, scale };
            let (whole, fraction) = number.fixed(precision);
            let text = if fraction.is_empty() { whole } else { format!("{whole}.{fraction}") };
            let (mantissa, exponent) = number.scientific(precision);
            assert_eq!((text.as_str(), format!("{mantissa}e{exponent}").as_str()), (fixed, scientific), "{unscaled}");
        }
    }
}
