//! Strings where Flink's rules differ from DataFusion's or DataFusion has no such function. Positions count
//! characters from 1 (`FLINK_SQL.md`, section 9; every rule below has its line in `tests/expressions/`).
//!
//! | function | what differs from DataFusion |
//! |---|---|
//! | CONCAT | NULL if any argument is NULL (theirs skips NULLs); strings only |
//! | SUBSTRING | start 0 counts as 1, a negative start from the end, a negative length is NULL |
//! | LEFT, RIGHT | a negative count gives '' (theirs cuts that many off) |
//! | LPAD, RPAD | NULL for an empty pad or a negative length |
//! | CHR | the code modulo 256, '' for a negative one |
//! | ASCII | the first byte, signed |
//! | OVERLAY | unchanged where the start lies outside of the text |
//! | INITCAP | ASCII letters only |
//! | SPLIT_INDEX, SPLIT, STR_TO_MAP, ELT, INSTR, LOCATE, IS_ALPHA, IS_DIGIT, IS_DECIMAL | theirs has no such function |
//!
//! UPPER, LOWER, CHAR_LENGTH, REVERSE, TRIM and its kin, TRANSLATE, CONCAT_WS are DataFusion's own.
//! What a function may blow up (REPEAT, LPAD) is bounded by [`LONGEST`], and by [`MOST_BYTES`] for a batch.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, ListBuilder, MapBuilder, MapFieldNames, StringViewBuilder};
use arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err};

use super::call::Call;
use super::function::{Definition, Nulls, Returns, define};
use super::types::map;

pub(crate) const DEFINITIONS: &[Definition] = &[
    define("concat", "s*", Returns::Text, Nulls::Propagate, concat),
    define("substr", "si[i", Returns::Text, Nulls::Possible, substring),
    define("substring", "si[i", Returns::Text, Nulls::Possible, substring),
    define("left", "si", Returns::Text, Nulls::Propagate, left),
    define("right", "si", Returns::Text, Nulls::Propagate, right),
    define("lpad", "sis", Returns::Text, Nulls::Possible, |call| pad(call, true)),
    define("rpad", "sis", Returns::Text, Nulls::Possible, |call| pad(call, false)),
    define("repeat", "si", Returns::Text, Nulls::Propagate, repeat),
    define("replace", "sss", Returns::Text, Nulls::Propagate, replace),
    define("chr", "i", Returns::Text, Nulls::Propagate, chr),
    define("ascii", "s", Returns::Int, Nulls::Propagate, ascii),
    define("instr", "ss[ii", Returns::Int, Nulls::Propagate, instr),
    define("locate", "ss[i", Returns::Int, Nulls::Propagate, locate),
    define("overlay", "ssi[i", Returns::Text, Nulls::Propagate, overlay),
    define("split_index", "sai", Returns::Text, Nulls::Possible, split_index),
    define("split", "ss", Returns::Texts, Nulls::Propagate, split),
    define(
        "str_to_map",
        "s[ss",
        Returns::With(|_, _| Ok(map(DataType::Utf8View, DataType::Utf8View))),
        Nulls::Propagate,
        str_to_map,
    ),
    define("elt", "is*", Returns::Text, Nulls::Possible, elt),
    define("initcap", "s", Returns::Text, Nulls::Propagate, initcap),
    define("is_alpha", "s", Returns::Boolean, Nulls::Never, |call| {
        test(call, |text| text.chars().all(char::is_alphabetic))
    }),
    define("is_digit", "s", Returns::Boolean, Nulls::Never, |call| test(call, |text| DIGITS.is_match(text))),
    define("is_decimal", "s", Returns::Boolean, Nulls::Never, |call| test(call, is_decimal)),
];

/// Decimal digits of any script: no fractions, no numbers in a circle.
static DIGITS: LazyLock<regex::Regex> = LazyLock::new(|| regex::Regex::new(r"^\p{Nd}+$").expect("a valid pattern"));

/// The byte index of a character index, or the end.
fn byte_at(text: &str, character: usize) -> usize {
    if text.is_ascii() {
        return character.min(text.len());
    }
    text.char_indices().nth(character).map_or(text.len(), |(at, _)| at)
}

fn length(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

/// NULL if any argument is (DataFusion's skips NULLs).
fn concat(call: &Call) -> Result<ArrayRef> {
    let parts = (0..call.args.len()).map(|i| call.strings(i)).collect::<Result<Vec<_>>>()?;
    let mut text = String::new();
    let mut builder = StringViewBuilder::with_capacity(call.rows);
    for row in 0..call.rows {
        text.clear();
        let complete = parts.iter().all(|part| part.get(row).map(|part| text.push_str(part)).is_some());
        builder.append_option(complete.then_some(text.as_str()));
    }
    Ok(Arc::new(builder.finish()))
}

/// `SUBSTRING(s, start[, length])`: start 0 is 1, a negative one counts from the end; a negative length is NULL.
fn substring(call: &Call) -> Result<ArrayRef> {
    let (texts, starts) = (call.strings(0)?, call.integers(1)?);
    let lengths = if call.has(2) { Some(call.integers(2)?) } else { None };
    call.text(|row| {
        let (text, start) = (texts.get(row)?, starts.get(row)?);
        let wanted = match &lengths {
            Some(lengths) => lengths.get(row)?,
            None => i64::MAX,
        };
        if wanted < 0 {
            return None;
        }
        let first = match start {
            0 => 0,
            1.. => start - 1,
            // Before the first character there is nothing at all.
            _ => match length(text) as i64 + start {
                first @ 0.. => first,
                _ => return Some(""),
            },
        };
        let rest = &text[byte_at(text, usize::try_from(first).unwrap_or(usize::MAX))..];
        Some(&rest[..byte_at(rest, usize::try_from(wanted).unwrap_or(usize::MAX))])
    })
}

fn left(call: &Call) -> Result<ArrayRef> {
    let (texts, counts) = (call.strings(0)?, call.integers(1)?);
    call.text(|row| {
        let (text, count) = (texts.get(row)?, counts.get(row)?);
        Some(&text[..byte_at(text, usize::try_from(count).unwrap_or(0))])
    })
}

fn right(call: &Call) -> Result<ArrayRef> {
    let (texts, counts) = (call.strings(0)?, call.integers(1)?);
    call.text(|row| {
        let (text, count) = (texts.get(row)?, counts.get(row)?);
        let skip = length(text).saturating_sub(usize::try_from(count).unwrap_or(0));
        Some(&text[byte_at(text, skip)..])
    })
}

/// LPAD and RPAD: NULL for a negative length or an empty pad, cut if too long.
fn pad(call: &Call, before: bool) -> Result<ArrayRef> {
    let (texts, lengths, pads) = (call.strings(0)?, call.integers(1)?, call.strings(2)?);
    let row = |row: usize| {
        let (text, wanted, pad) = (texts.get(row)?, lengths.get(row)?, pads.get(row)?);
        (wanted >= 0 && !pad.is_empty()).then_some((text, wanted, pad))
    };
    batch_fits(call, |at| {
        let Some((text, wanted, pad)) = row(at) else { return Ok(0) };
        let missing = bounded(call, wanted)?.saturating_sub(length(text));
        Ok(text.len() + (missing / length(pad) + 1) * pad.len())
    })?;
    call.text(|at| {
        let (text, wanted, pad) = row(at)?;
        let wanted = usize::try_from(wanted).unwrap_or(0);
        let missing = wanted.saturating_sub(length(text));
        let kept = &text[..byte_at(text, wanted)];
        let padding: String = pad.chars().cycle().take(missing).collect();
        Some(if before { padding + kept } else { format!("{kept}{padding}") })
    })
}

/// Lengths that a value is allowed to grow to by a function: 64 Mi characters.
const LONGEST: i64 = 64 << 20;

fn bounded(call: &Call, wanted: i64) -> Result<usize> {
    if wanted > LONGEST {
        return exec_err!("function {}: a text of {wanted} characters is longer than the {LONGEST} allowed", call.name);
    }
    Ok(usize::try_from(wanted).unwrap_or(0))
}

/// What all texts of a batch together are allowed to grow to by a function: 1 GiB. Lengths come from the data, and nobody
/// has counted the memory that they are about to take. The rows of a batch that has more are taken in smaller ones.
const MOST_BYTES: usize = 1 << 30;

/// Refuses a batch before its texts are made. `bytes` is of a row, at most.
fn batch_fits(call: &Call, bytes: impl Fn(usize) -> Result<usize>) -> Result<()> {
    let sum = (0..call.rows).map(bytes).sum::<Result<usize>>()?;
    if sum > MOST_BYTES {
        return exec_err!(
            "function {}: the texts of {} rows have {sum} bytes, more than the {MOST_BYTES} allowed",
            call.name,
            call.rows
        );
    }
    Ok(())
}

fn repeat(call: &Call) -> Result<ArrayRef> {
    let (texts, counts) = (call.strings(0)?, call.integers(1)?);
    batch_fits(call, |row| match (texts.get(row), counts.get(row)) {
        (Some(text), Some(count)) => bounded(call, count.saturating_mul(text.len() as i64)),
        _ => Ok(0),
    })?;
    call.text(|row| Some(texts.get(row)?.repeat(usize::try_from(counts.get(row)?).unwrap_or(0))))
}

fn replace(call: &Call) -> Result<ArrayRef> {
    let (texts, from, to) = (call.strings(0)?, call.strings(1)?, call.strings(2)?);
    call.text(|row| {
        let (text, from, to) = (texts.get(row)?, from.get(row)?, to.get(row)?);
        Some(if text.contains(from) { Cow::Owned(text.replace(from, to)) } else { Cow::Borrowed(text) })
    })
}

/// `CHR(n)`: the character of n modulo 256, none for a negative n.
fn chr(call: &Call) -> Result<ArrayRef> {
    let codes = call.integers(0)?;
    call.text(|row| match codes.get(row)? {
        code @ 0.. => Some(char::from((code % 256) as u8).to_string()),
        _ => Some(String::new()),
    })
}

/// The first byte as a signed number, 0 for an empty string.
fn ascii(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    call.ints(|row| Some(texts.get(row)?.as_bytes().first().map_or(0, |byte| i32::from(*byte as i8))))
}

/// Character position, from 1, of the first match at or after a character index; 0 if there is none.
fn find(text: &str, part: &str, from: usize) -> usize {
    let start = byte_at(text, from);
    match text[start..].find(part) {
        Some(at) if from <= length(text) => from + length(&text[start..start + at]) + 1,
        _ => 0,
    }
}

/// `INSTR(s, part[, start[, occurrence]])`; a negative start searches backwards.
fn instr(call: &Call) -> Result<ArrayRef> {
    let (texts, parts) = (call.strings(0)?, call.strings(1)?);
    let starts = if call.has(2) { Some(call.integers(2)?) } else { None };
    let occurrences = if call.has(3) { Some(call.integers(3)?) } else { None };
    call.ints(|row| {
        let (text, part) = (texts.get(row)?, parts.get(row)?);
        let start = starts.as_ref().map_or(Some(1), |starts| starts.get(row))?;
        let occurrence = occurrences.as_ref().map_or(Some(1), |occurrences| occurrences.get(row))?;
        if start < 0 {
            let end = length(text) as i64 + start + 1;
            let kept = &text[..byte_at(text, usize::try_from(end).unwrap_or(0) + length(part).saturating_sub(1))];
            let found = kept.rmatch_indices(part).nth(usize::try_from(occurrence - 1).unwrap_or(0));
            return Some(found.map_or(0, |(at, _)| length(&text[..at]) as i32 + 1));
        }
        let mut position = usize::try_from(start - 1).unwrap_or(0);
        for _ in 0..occurrence.max(1) {
            position = find(text, part, position);
            if position == 0 {
                break;
            }
        }
        Some(position as i32)
    })
}

/// `LOCATE(part, s[, start])`.
fn locate(call: &Call) -> Result<ArrayRef> {
    let (parts, texts) = (call.strings(0)?, call.strings(1)?);
    let starts = if call.has(2) { Some(call.integers(2)?) } else { None };
    call.ints(|row| {
        let (part, text) = (parts.get(row)?, texts.get(row)?);
        let start = starts.as_ref().map_or(Some(1), |starts| starts.get(row))?;
        Some(find(text, part, usize::try_from(start - 1).unwrap_or(0)) as i32)
    })
}

/// `OVERLAY(s PLACING new FROM start [FOR length])`; unchanged where start is outside of s.
fn overlay(call: &Call) -> Result<ArrayRef> {
    let (texts, parts, starts) = (call.strings(0)?, call.strings(1)?, call.integers(2)?);
    let lengths = if call.has(3) { Some(call.integers(3)?) } else { None };
    call.text(|row| {
        let (text, part, start) = (texts.get(row)?, parts.get(row)?, starts.get(row)?);
        let replaced = match &lengths {
            Some(lengths) => lengths.get(row)?,
            None => length(part) as i64,
        };
        if start <= 0 || start > length(text) as i64 {
            return Some(Cow::Borrowed(text));
        }
        let first = byte_at(text, (start - 1) as usize);
        let rest = &text[first..];
        let after = &rest[byte_at(rest, usize::try_from(replaced).unwrap_or(0))..];
        Some(Cow::Owned(format!("{}{part}{after}", &text[..first])))
    })
}

/// `SPLIT_INDEX(s, separator, i)`, i from 0; the separator may be given as a character's number.
fn split_index(call: &Call) -> Result<ArrayRef> {
    let (texts, indexes) = (call.strings(0)?, call.integers(2)?);
    let numbers = if call.args[1].data_type().is_integer() { Some(call.integers(1)?) } else { None };
    let separators = if numbers.is_none() { Some(call.strings(1)?) } else { None };
    call.text(|row| {
        let (text, index) = (texts.get(row)?, usize::try_from(indexes.get(row)?).ok()?);
        let code;
        let separator = match (&numbers, &separators) {
            (Some(numbers), _) => {
                code = char::from(u8::try_from(numbers.get(row)?).ok()?).to_string();
                code.as_str()
            }
            (None, Some(separators)) => separators.get(row)?,
            (None, None) => return None,
        };
        if text.is_empty() {
            return None;
        }
        if separator.is_empty() {
            return (index == 0).then_some(text);
        }
        text.split(separator).nth(index)
    })
}

/// `SPLIT(s, separator)`: an empty s gives no items, an empty separator the characters.
fn split(call: &Call) -> Result<ArrayRef> {
    let (texts, separators) = (call.strings(0)?, call.strings(1)?);
    let mut lists = ListBuilder::new(StringViewBuilder::new());
    for row in 0..call.rows {
        match (texts.get(row), separators.get(row)) {
            (Some(text), Some(separator)) => {
                let values = lists.values();
                if separator.is_empty() {
                    text.chars().for_each(|c| values.append_value(c.encode_utf8(&mut [0; 4])));
                } else if !text.is_empty() {
                    text.split(separator).for_each(|part| values.append_value(part));
                }
                lists.append(true);
            }
            _ => lists.append(false),
        }
    }
    Ok(Arc::new(lists.finish()))
}

/// `STR_TO_MAP(s[, between pairs, between key and value])`, default `,` and `=`; both are regular expressions.
fn str_to_map(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    let between = |i: usize, default: &str| -> Result<String> {
        match call.has(i) {
            true => Ok(call.constant_text(i)?.unwrap_or_else(|| default.to_owned())),
            false => Ok(default.to_owned()),
        }
    };
    let (pairs, values) =
        (super::regex::split_pattern(&between(1, ",")?)?, super::regex::split_pattern(&between(2, "=")?)?);
    let names = MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
    let mut maps = MapBuilder::new(Some(names), StringViewBuilder::new(), StringViewBuilder::new());
    for row in 0..call.rows {
        let Some(text) = texts.get(row) else {
            maps.append(false)?;
            continue;
        };
        let mut entries = indexmap::IndexMap::new();
        // As of Java's `split`, pairs at the end that are empty are none.
        let mut found: Vec<&str> = pairs.regex().split(text).collect();
        while found.last().is_some_and(|pair| pair.is_empty()) {
            found.pop();
        }
        for pair in found {
            let mut parts = values.regex().splitn(pair, 2);
            entries.insert(parts.next().unwrap_or(""), parts.next());
        }
        for (key, value) in entries {
            maps.keys().append_value(key);
            maps.values().append_option(value);
        }
        maps.append(true)?;
    }
    Ok(Arc::new(maps.finish()))
}

/// `ELT(i, a, b, …)`: the i-th, from 1.
fn elt(call: &Call) -> Result<ArrayRef> {
    let indexes = call.integers(0)?;
    let texts = (1..call.args.len()).map(|i| call.strings(i)).collect::<Result<Vec<_>>>()?;
    call.text(|row| texts.get(usize::try_from(indexes.get(row)? - 1).ok()?)?.get(row))
}

/// A capital after each character that is no ASCII letter or digit, the rest in lower case; ASCII only.
fn initcap(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    call.text(|row| {
        let mut start = true;
        let mut out = String::new();
        for c in texts.get(row)?.chars() {
            out.push(if start { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
            start = !c.is_ascii_alphanumeric();
        }
        Some(out)
    })
}

/// False for NULL and for an empty string.
fn test(call: &Call, holds: impl Fn(&str) -> bool) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    call.flags(|row| Some(texts.get(row).is_some_and(|text| !text.is_empty() && holds(text))))
}

fn is_decimal(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-']);
    digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte)) && text.trim().parse::<f64>().is_ok()
}
