//! Any value into any column: the conversions, without hurry.
//!
//! The walk takes the commonest pairs itself and comes here for all others, and whenever one of its own
//! did not work out, to find out why. So everything that a value can be is decided here.

use crate::formats::text::{Number, TextError, parse_bool, parse_date, parse_f32, parse_f64, parse_time_millis, trim};

use super::base64;
use super::columns::{Column, SideText, TextColumn};
use super::numbers::{self, JsonNumber};
use super::reject::RejectReason::{self, BadBase64, BadDate, BadTime, BadTimestamp, OutOfRange, WrongType};
use super::simd::{Simd, Task};
use super::strings;
use super::walk::{Stop, Walker, byte, task};

task!(
    /// As `value`, for every pair of column and value: reads the value at `at` into row `row` of `column`.
    AnyValueTask, any_value = any_value_body(column: usize, at: usize, row: usize, depth: usize) -> usize
);

/// A value as it stands in the record.
pub(super) enum Token<'a> {
    Null,
    Boolean(bool),
    Number(JsonNumber<'a>),
    /// Between the quotes.
    Text { raw: &'a [u8], escaped: bool },
    Object,
    Array,
}

impl<'a, S: Simd> Walker<'a, S> {
    #[inline(always)]
    fn any_value_body(&mut self, column: usize, at: usize, row: usize, depth: usize) -> Result<usize, Stop> {
        let text = self.text;
        // First the nested columns, which read on from the bracket themselves.
        match (&mut self.machine.columns[column], byte(text, at)) {
            (Column::Struct(values), b'{') => {
                let object = values.object;
                values.present.push(row, ())?;
                return if self.careful {
                    self.careful_object(object, at + 1, row, depth)
                } else {
                    self.object(object, at + 1, row, depth)
                };
            }
            (Column::List(_), b'[') => return self.list(column, at + 1, row, depth),
            (Column::Map(_), b'{') => return self.map(column, at, row, depth),
            _ => {}
        }
        let (token, after) = self.token(at, depth)?;
        let span = text.get(at..after).unwrap_or_default();
        let written = match token {
            Token::Null if self.machine.columns[column].rows() > row => Err(Stop::Repeat),
            Token::Null => Ok(()),
            token => self.write(column, row, token, at, span),
        };
        match written {
            Ok(()) => Ok(after),
            Err(stop) => Err(self.refuse(stop, column, at, after)),
        }
    }

    #[inline(always)]
    fn token(&mut self, at: usize, depth: usize) -> Result<(Token<'a>, usize), Stop> {
        let text = self.text;
        Ok(match byte(text, at) {
            b'"' => {
                let found = self.string(at)?;
                let raw = text.get(at + 1..found.end).unwrap_or_default();
                (Token::Text { raw, escaped: found.escaped }, found.end + 1)
            }
            b'-' | b'0'..=b'9' => {
                let (after, number) = numbers::scan(text, at).map_err(|fault| self.syntax(fault))?;
                (Token::Number(number), after)
            }
            first => {
                let after = self.skip_value(at, depth)?;
                let token = match first {
                    b'{' => Token::Object,
                    b'[' => Token::Array,
                    b'n' => Token::Null,
                    first => Token::Boolean(first == b't'),
                };
                (token, after)
            }
        })
    }

    /// Writes a token that is not null; `span` is its text, quotes and all, which stands at `at`.
    fn write(&mut self, column: usize, row: usize, token: Token<'a>, at: usize, span: &'a [u8]) -> Result<(), Stop> {
        let base = self.base.map(|base| base + at);
        let mut scratch = Vec::new();
        let mut token = token;
        if let Token::Text { raw, escaped: true } = token
            && !matches!(self.machine.columns[column], Column::Text(_))
        {
            strings::unescape(raw, &mut scratch);
            token = Token::Text { raw: &scratch, escaped: false };
        }
        let side = &mut self.machine.side;
        match (&mut self.machine.columns[column], &token) {
            (Column::Text(values), Token::Text { raw, escaped }) => {
                let base = base.map(|base| base + 1);
                push_text(values, side, row, raw, *escaped, base)
            }
            (Column::Text(values), _) => push_text(values, side, row, span, false, base),
            (Column::Chars(values), token) => {
                let text = if let Token::Text { raw, .. } = token { raw } else { span };
                values.push_with(row, |bytes| {
                    bytes.extend_from_slice(text);
                    Ok(())
                })
            }
            (Column::Binary(values), Token::Text { raw, .. }) => {
                values.push_with(row, |bytes| base64::decode(raw, bytes).ok_or(Stop::Value(BadBase64)))
            }
            (Column::Boolean(values), Token::Boolean(value)) => values.push(row, *value),
            (Column::Boolean(values), Token::Text { raw, .. }) => values.push(row, value_of(parse_bool(trim(raw)))?),
            (Column::Int8(values), token) => values.push(row, narrow(integer(token)?)?),
            (Column::Int16(values), token) => values.push(row, narrow(integer(token)?)?),
            (Column::Int32(values), token) => values.push(row, narrow(integer(token)?)?),
            (Column::Int64(values), token) => values.push(row, integer(token)?),
            (Column::Float32(values), Token::Number(number)) => values.push(row, value_of(number.to_f32())?),
            (Column::Float32(values), Token::Text { raw, .. }) => values.push(row, value_of(parse_f32(trim(raw)))?),
            (Column::Float64(values), Token::Number(number)) => values.push(row, value_of(number.to_f64())?),
            (Column::Float64(values), Token::Text { raw, .. }) => values.push(row, value_of(parse_f64(trim(raw)))?),
            (Column::Decimal(column), token) => {
                let (precision, scale) = (column.precision, column.scale);
                let value = match token {
                    Token::Number(number) => number.to_decimal(precision, scale),
                    Token::Text { raw, .. } => Number::parse(trim(raw)).and_then(|number| number.to_decimal(precision, scale)),
                    _ => Err(TextError::Malformed),
                };
                column.values.push(row, value_of(value)?)
            }
            (Column::Date(values), Token::Text { raw, .. }) => values.push(row, time_of(parse_date(raw), BadDate)?),
            (Column::Date(_), Token::Number(_)) => Err(Stop::Value(BadDate)),
            (Column::Time(values), Token::Text { raw, .. }) => values.push(row, time_of(parse_time_millis(raw), BadTime)?),
            (Column::Time(_), Token::Number(_)) => Err(Stop::Value(BadTime)),
            (Column::Timestamp(column), Token::Text { raw, .. }) => {
                column.values.push(row, time_of(column.parser.parse(raw), BadTimestamp)?)
            }
            // A number could be seconds, or milliseconds, or …: the query says which, by a function.
            (Column::Timestamp(_), Token::Number(_)) => Err(Stop::Value(BadTimestamp)),
            _ => Err(Stop::Value(WrongType)),
        }
    }
}

/// `base`: where `text` lies in the chunk, if it does.
pub(super) fn push_text(column: &mut TextColumn, side: &mut SideText, row: usize, text: &[u8], escaped: bool, base: Option<usize>) -> Result<(), Stop> {
    let mut plain = Vec::new();
    let text = if escaped {
        strings::unescape(text, &mut plain);
        plain.as_slice()
    } else {
        text
    };
    let view = if strings::is_inline(text.len()) {
        let mut padded = [0; 16];
        padded[..text.len()].copy_from_slice(text);
        strings::inline_view(&padded, 0, text.len())
    } else {
        column.long = true;
        match base {
            Some(base) if !escaped => strings::long_view(text, 0, text.len(), 0, base as u32),
            _ => {
                let (buffer, offset) = side.reserve(text.len());
                side.open.extend_from_slice(text);
                strings::long_view(text, 0, text.len(), buffer, offset)
            }
        }
    };
    column.views.push(row, view)
}

fn integer(token: &Token<'_>) -> Result<i64, Stop> {
    value_of(match token {
        Token::Number(number) => number.to_i64(),
        Token::Text { raw, .. } => Number::parse(trim(raw)).and_then(|number| number.to_i64()),
        _ => Err(TextError::Malformed),
    })
}

fn narrow<T: TryFrom<i64>>(value: i64) -> Result<T, Stop> {
    T::try_from(value).map_err(|_| Stop::Value(OutOfRange))
}

fn value_of<T>(value: Result<T, TextError>) -> Result<T, Stop> {
    time_of(value, WrongType)
}

fn time_of<T>(value: Result<T, TextError>, malformed: RejectReason) -> Result<T, Stop> {
    value.map_err(|error| {
        Stop::Value(match error {
            TextError::Malformed => malformed,
            TextError::OutOfRange => OutOfRange,
        })
    })
}
