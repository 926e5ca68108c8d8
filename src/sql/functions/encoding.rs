//! Bytes and texts: HEX, UNHEX, BIN, TO_BASE64, FROM_BASE64, ENCODE, DECODE, STARTSWITH, ENDSWITH, TYPEOF.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD};
use datafusion::common::{Result, exec_err};

use super::function::{Call, Definition, Nulls, Returns, define};
use super::types::field_text;

pub(crate) const DEFINITIONS: &[Definition] = &[
    define("hex", "a", Returns::Text, Nulls::Propagate, hex),
    define("unhex", "s", Returns::Bytes, Nulls::Possible, unhex),
    define("bin", "i", Returns::Text, Nulls::Propagate, bin),
    define("to_base64", "a", Returns::Text, Nulls::Propagate, to_base64),
    define("from_base64", "s", Returns::Text, Nulls::Possible, from_base64),
    define("encode", "ss", Returns::Bytes, Nulls::Possible, encode),
    define("decode", "xs", Returns::Text, Nulls::Possible, decode),
    define("startswith", "ss", Returns::Boolean, Nulls::Propagate, |call| compare(call, |text, part| text.starts_with(part))),
    define("endswith", "ss", Returns::Boolean, Nulls::Propagate, |call| compare(call, |text, part| text.ends_with(part))),
    define("typeof", "a[b", Returns::Text, Nulls::Never, type_of),
];

/// Hexadecimal digits, two a byte.
pub(crate) fn hex_digits(bytes: &[u8], upper: bool) -> String {
    let digits = if upper { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
    bytes.iter().flat_map(|byte| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]).map(char::from).collect()
}

/// `HEX(n)` of a number as 64 bits, or of a text's UTF-8.
fn hex(call: &Call) -> Result<ArrayRef> {
    let data_type = call.args[0].data_type();
    if data_type.is_integer() {
        let values = call.integers(0)?;
        return call.text(|row| Some(format!("{:X}", values.get(row)?)));
    }
    if data_type.is_binary() {
        let values = call.bytes(0)?;
        return call.text(|row| Some(hex_digits(values.get(row)?, true)));
    }
    if !data_type.is_string() && !data_type.is_null() {
        return exec_err!("function hex takes an integer, a string or bytes, not {data_type}");
    }
    let texts = call.strings(0)?;
    call.text(|row| Some(hex_digits(texts.get(row)?.as_bytes(), true)))
}

/// `UNHEX(s)`: NULL for other characters; an odd first digit counts as nothing, as in Flink.
fn unhex(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    let value = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let decode = |text: &str| -> Option<Vec<u8>> {
        let digits = text.as_bytes();
        let (first, rest) = digits.split_at(digits.len() % 2);
        let first = first.iter().map(|digit| value(*digit).map(|_| 0));
        first.chain(rest.chunks(2).map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?))).collect()
    };
    bytes(call, |row| texts.get(row).and_then(decode))
}

fn bytes(call: &Call, value: impl Fn(usize) -> Option<Vec<u8>>) -> Result<ArrayRef> {
    let mut builder = BinaryBuilder::new();
    for row in 0..call.rows {
        builder.append_option(value(row));
    }
    Ok(Arc::new(builder.finish()))
}

fn bin(call: &Call) -> Result<ArrayRef> {
    let values = call.integers(0)?;
    call.text(|row| Some(format!("{:b}", values.get(row)?)))
}

fn to_base64(call: &Call) -> Result<ArrayRef> {
    if call.args[0].data_type().is_binary() {
        let values = call.bytes(0)?;
        return call.text(|row| Some(STANDARD.encode(values.get(row)?)));
    }
    let texts = call.strings(0)?;
    call.text(|row| Some(STANDARD.encode(texts.get(row)?)))
}

/// NULL for a text that is not Base64 (an error in Flink); bytes that are not UTF-8 are replaced.
fn from_base64(call: &Call) -> Result<ArrayRef> {
    let engine = GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));
    let texts = call.strings(0)?;
    call.text(|row| Some(String::from_utf8_lossy(&engine.decode(texts.get(row)?).ok()?).into_owned()))
}

/// The character sets of ENCODE and DECODE.
#[derive(Clone, Copy)]
enum Charset {
    Ascii,
    Latin1,
    Utf8,
    Utf16 { big: bool, mark: bool },
}

fn charset(call: &Call) -> Result<Option<Charset>> {
    let names = call.strings(1)?;
    let Some(name) = names.get(0) else { return Ok(None) };
    Ok(Some(match name.to_ascii_uppercase().as_str() {
        "UTF-8" | "UTF8" => Charset::Utf8,
        "US-ASCII" | "ASCII" => Charset::Ascii,
        "ISO-8859-1" | "LATIN1" => Charset::Latin1,
        "UTF-16" => Charset::Utf16 { big: true, mark: true },
        "UTF-16BE" => Charset::Utf16 { big: true, mark: false },
        "UTF-16LE" => Charset::Utf16 { big: false, mark: false },
        _ => return exec_err!("function {}: '{name}' is not one of US-ASCII, ISO-8859-1, UTF-8, UTF-16BE, UTF-16LE, UTF-16", call.name),
    }))
}

fn encode(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    let charset = charset(call)?;
    bytes(call, |row| {
        let text = texts.get(row)?;
        Some(match charset? {
            Charset::Utf8 => text.as_bytes().to_vec(),
            Charset::Ascii => text.chars().map(|c| if c.is_ascii() { c as u8 } else { b'?' }).collect(),
            Charset::Latin1 => text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect(),
            Charset::Utf16 { big, mark } => {
                let units = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16());
                units.flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
            }
        })
    })
}

fn decode(call: &Call) -> Result<ArrayRef> {
    let values = call.bytes(0)?;
    let charset = charset(call)?;
    call.text(|row| {
        let bytes = values.get(row)?;
        Some(match charset? {
            Charset::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
            Charset::Ascii => bytes.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '\u{fffd}' }).collect(),
            Charset::Latin1 => bytes.iter().map(|byte| char::from(*byte)).collect(),
            Charset::Utf16 { big, mark } => {
                let (big, bytes) = match bytes {
                    [0xfe, 0xff, rest @ ..] if mark => (true, rest),
                    [0xff, 0xfe, rest @ ..] if mark => (false, rest),
                    _ => (big, bytes),
                };
                let units = bytes.chunks_exact(2).map(|pair| {
                    let pair = [pair[0], pair[1]];
                    if big { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
                });
                char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect()
            }
        })
    })
}

fn compare(call: &Call, holds: impl Fn(&str, &str) -> bool) -> Result<ArrayRef> {
    let (texts, parts) = (call.strings(0)?, call.strings(1)?);
    call.flags(|row| Some(holds(texts.get(row)?, parts.get(row)?)))
}

/// `TYPEOF(x)`: Flink's name of the type, as far as Arrow's types tell it.
fn type_of(call: &Call) -> Result<ArrayRef> {
    let mut name = String::new();
    let field = &call.fields[0];
    if field.data_type().is_null() {
        name.push_str("NULL");
    } else {
        let _ = write!(name, "{}", field_text(field));
    }
    call.text(|_| Some(name.as_str()))
}
