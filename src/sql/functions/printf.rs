//! `PRINTF(format, …)` with the conversions of `java.util.Formatter` that SQL values have: `%d %s %f %e %x %X
//! %o %b %c %n %%`, with width, precision and the flags `- 0 + , ( space`. A format that does not fit its
//! arguments gives NULL, as in Flink.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use datafusion::common::Result;

use super::cast_text::TextOf;
use super::function::{Call, Column, Definition, Nulls, Returns, define};

pub(crate) const PRINTF: Definition = define("printf", "s[a*", Returns::Text, Nulls::Possible, printf);

/// Widths past this are not padding but a mistake.
const WIDEST: usize = 10_000;

struct Value {
    text: Column<TextOf>,
    numbers: Option<Column<arrow::array::Int64Array>>,
    doubles: Option<Column<arrow::array::Float64Array>>,
}

/// A conversion such as `%-10.2f`.
#[derive(Debug, Default)]
struct Conversion {
    left: bool,
    zero: bool,
    plus: bool,
    space: bool,
    group: bool,
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
        let fractional = data_type.is_floating() || matches!(data_type, DataType::Decimal128(..));
        let doubles = if fractional { Some(call.doubles(i)?) } else { None };
        values.push(Value { text, numbers, doubles });
    }
    call.try_text(|row| match formats.get(row) {
        Some(format) => print(format, &values, row),
        None => Ok(None),
    })
}

fn print(format: &str, values: &[Value], row: usize) -> Result<Option<String>> {
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    let mut next = 0;
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
                let Some(value) = values.get(next) else { return Ok(None) };
                next += 1;
                let Some(text) = conversion.print(value, row)? else { return Ok(None) };
                conversion.pad(&text, &mut out);
            }
        }
    }
    Ok(Some(out))
}

impl Conversion {
    fn parse(chars: &mut std::iter::Peekable<std::str::Chars>) -> Option<Conversion> {
        let mut conversion = Conversion::default();
        while let Some(flag) = chars.next_if(|c| "-0+ ,".contains(*c)) {
            match flag {
                '-' => conversion.left = true,
                '0' => conversion.zero = true,
                '+' => conversion.plus = true,
                ' ' => conversion.space = true,
                _ => conversion.group = true,
            }
        }
        let mut digits = || {
            let mut text = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                text.push(digit);
            }
            text
        };
        conversion.width = digits().parse().unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            let mut text = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                text.push(digit);
            }
            conversion.precision = Some(text.parse().ok()?);
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
        Ok(match (self.letter, number, double) {
            ('d', Some(number), _) => Some(self.sign(number < 0, self.grouped(number.unsigned_abs().to_string()))),
            ('x', Some(number), _) => Some(format!("{number:x}")),
            ('X', Some(number), _) => Some(format!("{number:X}")),
            ('o', Some(number), _) => Some(format!("{number:o}")),
            ('c', Some(number), _) => u32::try_from(number).ok().and_then(char::from_u32).map(String::from),
            ('f', _, Some(double)) => {
                let rounded = format!("{:.*}", self.precision.unwrap_or(6), double.abs());
                let (whole, fraction) = rounded.split_once('.').unwrap_or((&rounded, ""));
                let point = if fraction.is_empty() { "" } else { "." };
                Some(self.sign(double < 0.0, format!("{}{point}{fraction}", self.grouped(whole.to_string()))))
            }
            ('e' | 'E', _, Some(double)) => {
                let text = format!("{:.*e}", self.precision.unwrap_or(6), double.abs());
                let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let exponent: i32 = exponent.parse().unwrap_or(0);
                let letter = self.letter;
                Some(self.sign(double < 0.0, format!("{mantissa}{letter}{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())))
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
        let sign = match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        };
        let width = self.width.saturating_sub(sign.len());
        match self.zero && !self.left {
            true => format!("{sign}{digits:0>width$}"),
            false => format!("{sign}{digits}"),
        }
    }

    /// With commas between thousands.
    fn grouped(&self, digits: String) -> String {
        if !self.group {
            return digits;
        }
        let mut out = String::new();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i) % 3 == 0 {
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
