//! Dates, times of day and timestamps from text.
//!
//! Forms read: `yyyy-MM-dd`, `HH:mm[:ss[.fraction]]`, and the two joined by a space (SQL) or a `T`
//! (ISO-8601), followed or not by `Z` or an offset, which converts to UTC. Years have exactly four
//! digits, days must exist, hour 24 and second 60 are refused, a fraction has up to nine digits and what
//! is finer than the unit is cut off.
//!
//! Speed comes from one fact of streams: neighbouring events fall into the same minute. The 16 bytes
//! `yyyy-MM-ddTHH:mm` are compared with the last ones seen, and only what follows is parsed.

use arrow::datatypes::TimeUnit;

use super::TextError;

const SECONDS_PER_DAY: i64 = 86_400;
/// Java's `ZoneOffset` goes as far as 18 hours, so Flink's reader does.
const MAX_OFFSET_HOURS: i64 = 18;
/// Bytes of `yyyy-MM-ddTHH:mm`.
const MINUTE_LENGTH: usize = 16;

/// Which spelling of a timestamp is read (Flink's option `json.timestamp-format.standard`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampFormat {
    /// Either of the two.
    #[default]
    Any,
    /// `yyyy-MM-dd HH:mm:ss[.fraction]`
    Sql,
    /// `yyyy-MM-ddTHH:mm:ss[.fraction]`
    Iso8601,
}

/// Reads timestamps of one column; remembers the last minute.
#[derive(Clone, Debug)]
pub struct TimestampParser {
    format: TimestampFormat,
    unit: TimeUnit,
    minute_text: [u8; MINUTE_LENGTH],
    minute_seconds: i64,
}

impl TimestampParser {
    pub fn new(format: TimestampFormat, unit: TimeUnit) -> Self {
        // Not zeros: sixteen NULs would then be read as a minute.
        let epoch = match format {
            TimestampFormat::Sql => b"1970-01-01 00:00",
            TimestampFormat::Any | TimestampFormat::Iso8601 => b"1970-01-01T00:00",
        };
        Self {
            format,
            unit,
            minute_text: *epoch,
            minute_seconds: 0,
        }
    }

    /// The whole of `text` as units since 1970-01-01T00:00:00Z.
    #[inline(always)]
    pub fn parse(&mut self, text: &[u8]) -> Result<i64, TextError> {
        let Some((minute, rest)) = text.split_first_chunk::<MINUTE_LENGTH>() else {
            return Err(TextError::Malformed);
        };
        if *minute != self.minute_text {
            self.enter_minute(minute)?;
        }
        let tail = match rest.first_chunk::<8>() {
            Some(eight) if rest.len() == 8 => seconds_and_millis(eight),
            _ => None,
        };
        let (second, nanos) = match tail {
            Some((second, millis)) => (second, millis * 1_000_000),
            None => seconds_and_offset(rest)?,
        };
        to_unit(self.minute_seconds + second, nanos, self.unit)
    }

    /// Moves the memory to the minute written in `minute`; unchanged if it is no minute.
    #[inline(never)]
    fn enter_minute(&mut self, minute: &[u8; MINUTE_LENGTH]) -> Result<(), TextError> {
        self.minute_seconds = minute_seconds(minute, self.format)?;
        self.minute_text = *minute;
        Ok(())
    }
}

/// Seconds since the epoch and nanoseconds within the second.
pub fn parse_timestamp_parts(
    text: &[u8],
    format: TimestampFormat,
) -> Result<(i64, i64), TextError> {
    let Some((minute, rest)) = text.split_first_chunk::<MINUTE_LENGTH>() else {
        return Err(TextError::Malformed);
    };
    let minute = minute_seconds(minute, format)?;
    let (second, nanos) = seconds_and_offset(rest)?;
    Ok((minute + second, nanos))
}

/// `yyyy-MM-dd` as days since 1970-01-01.
pub fn parse_date(text: &[u8]) -> Result<i32, TextError> {
    let text: &[u8; 10] = text.try_into().map_err(|_| TextError::Malformed)?;
    let days = epoch_day(text)?;
    i32::try_from(days).map_err(|_| TextError::OutOfRange)
}

/// `HH:mm[:ss[.fraction]]` as milliseconds since midnight.
pub fn parse_time_millis(text: &[u8]) -> Result<i32, TextError> {
    let Some((minute, rest)) = text.split_first_chunk::<5>() else {
        return Err(TextError::Malformed);
    };
    let (second, nanos, rest) = seconds(rest)?;
    if !rest.is_empty() {
        return Err(TextError::Malformed);
    }
    let millis = (minute_of_day(minute)? * 60 + second) * 1_000 + nanos / 1_000_000;
    i32::try_from(millis).map_err(|_| TextError::OutOfRange)
}

#[inline(always)]
fn to_unit(seconds: i64, nanos: i64, unit: TimeUnit) -> Result<i64, TextError> {
    // Years 0 to 9999 fit all units but nanoseconds, which end in 1677 and 2262.
    match unit {
        TimeUnit::Second => Ok(seconds),
        TimeUnit::Millisecond => Ok(seconds * 1_000 + nanos / 1_000_000),
        TimeUnit::Microsecond => Ok(seconds * 1_000_000 + nanos / 1_000),
        TimeUnit::Nanosecond => i64::try_from(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
            .map_err(|_| TextError::OutOfRange),
    }
}

/// `:ss.mmmZ`, the tail of the commonest form, read as one word.
#[inline(always)]
fn seconds_and_millis(tail: &[u8; 8]) -> Option<(i64, i64)> {
    // What is left of each byte after the xor is its digit, or zero for the punctuation.
    let digits = u64::from_le_bytes(*tail) ^ u64::from_le_bytes(*b":00.000Z");
    // Adding carries into a byte's top bit from 10 on for a digit, from 1 on for punctuation.
    let limits = u64::from_le_bytes([0x7F, 0x76, 0x76, 0x7F, 0x76, 0x76, 0x76, 0x7F]);
    if (digits.wrapping_add(limits) | digits) & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    let at = |place: u32| ((digits >> (8 * place)) & 0x0F) as i64;
    let second = at(1) * 10 + at(2);
    let millis = at(4) * 100 + at(5) * 10 + at(6);
    (second < 60).then_some((second, millis))
}

/// `[:ss[.fraction]][offset]`: seconds to add to the minute (the offset taken off) and nanoseconds.
fn seconds_and_offset(text: &[u8]) -> Result<(i64, i64), TextError> {
    let (second, nanos, rest) = seconds(text)?;
    Ok((second - offset_seconds(rest)?, nanos))
}

fn seconds(text: &[u8]) -> Result<(i64, i64, &[u8]), TextError> {
    let [b':', tens, ones, rest @ ..] = text else {
        return Ok((0, 0, text));
    };
    let second = two_digits(*tens, *ones)?;
    if second > 59 {
        return Err(TextError::Malformed);
    }
    let [b'.', rest @ ..] = rest else {
        return Ok((second, 0, rest));
    };
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits > 9 {
        return Err(TextError::Malformed);
    }
    let (digits, rest) = rest.split_at(digits);
    let fraction = (0..9).fold(0, |sum, place| {
        sum * 10 + digits.get(place).map_or(0, |d| i64::from(d - b'0'))
    });
    Ok((second, fraction, rest))
}

fn offset_seconds(text: &[u8]) -> Result<i64, TextError> {
    let (sign, hours, minutes) = match text {
        [] | [b'Z' | b'z'] => return Ok(0),
        [sign, h1, h2] => (sign, two_digits(*h1, *h2)?, 0),
        [sign, h1, h2, m1, m2] | [sign, h1, h2, b':', m1, m2] => {
            (sign, two_digits(*h1, *h2)?, two_digits(*m1, *m2)?)
        }
        _ => return Err(TextError::Malformed),
    };
    let seconds = hours * 3_600 + minutes * 60;
    if minutes > 59 || seconds > MAX_OFFSET_HOURS * 3_600 {
        return Err(TextError::Malformed);
    }
    match sign {
        b'+' => Ok(seconds),
        b'-' => Ok(-seconds),
        _ => Err(TextError::Malformed),
    }
}

fn minute_seconds(text: &[u8; MINUTE_LENGTH], format: TimestampFormat) -> Result<i64, TextError> {
    let [y1, y2, y3, y4, d1, m1, m2, d2, n1, n2, separator, time @ ..] = text;
    let known = match separator {
        b'T' | b't' => format != TimestampFormat::Sql,
        b' ' => format != TimestampFormat::Iso8601,
        _ => false,
    };
    if !known {
        return Err(TextError::Malformed);
    }
    let day = epoch_day(&[*y1, *y2, *y3, *y4, *d1, *m1, *m2, *d2, *n1, *n2])?;
    Ok(day * SECONDS_PER_DAY + minute_of_day(time)? * 60)
}

/// `HH:mm` as minutes since midnight.
fn minute_of_day(text: &[u8; 5]) -> Result<i64, TextError> {
    let [h1, h2, b':', m1, m2] = text else {
        return Err(TextError::Malformed);
    };
    let (hour, minute) = (two_digits(*h1, *h2)?, two_digits(*m1, *m2)?);
    if hour > 23 || minute > 59 {
        return Err(TextError::Malformed);
    }
    Ok(hour * 60 + minute)
}

fn epoch_day(text: &[u8; 10]) -> Result<i64, TextError> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else {
        return Err(TextError::Malformed);
    };
    let year = two_digits(*y1, *y2)? * 100 + two_digits(*y3, *y4)?;
    let (month, day) = (two_digits(*m1, *m2)?, two_digits(*d1, *d2)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return Err(TextError::Malformed);
    }
    Ok(days_from_civil(year, month, day))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar.
///
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years start in March, so that the leap
/// day is the last of its year, and 400 years are 146,097 days.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn two_digits(tens: u8, ones: u8) -> Result<i64, TextError> {
    if tens.is_ascii_digit() && ones.is_ascii_digit() {
        Ok(i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
    } else {
        Err(TextError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(text: &str) -> Option<i64> {
        let mut parser = TimestampParser::new(TimestampFormat::Any, TimeUnit::Millisecond);
        let value = parser.parse(text.as_bytes()).ok();
        // With the minute remembered, the answer must be the same.
        assert_eq!(parser.parse(text.as_bytes()).ok(), value, "{text}");
        let parts = parse_timestamp_parts(text.as_bytes(), TimestampFormat::Any).ok();
        assert_eq!(parts.map(|(s, n)| s * 1_000 + n / 1_000_000), value, "{text}");
        value
    }

    #[test]
    fn all_spellings_of_one_instant() {
        for text in [
            "2026-02-12T10:00:00.000Z", "2026-02-12T10:00:00Z", "2026-02-12 10:00:00", "2026-02-12T10:00", "2026-02-12 10:00Z",
            "2026-02-12t10:00:00z", "2026-02-12T12:00:00+02:00", "2026-02-12T12:00:00.000+0200", "2026-02-12T12:00+02",
            "2026-02-11T22:30:00-11:30", "2026-02-12T10:00:00.", "2026-02-12T10:00:00.000999999Z", "2026-02-13T04:00:00+18:00",
        ] {
            assert_eq!(millis(text), Some(1_770_890_400_000), "{text}");
        }
        assert_eq!(millis("2026-02-12T10:00:59.987Z"), Some(1_770_890_459_987));
        assert_eq!(millis("1969-12-31T23:59:59.5Z"), Some(-500));
        assert_eq!(millis("0000-01-01T00:00:00Z"), Some(-62_167_219_200_000));
        assert_eq!(millis("9999-12-31T23:59:59.999Z"), Some(253_402_300_799_999));
    }

    #[test]
    fn what_is_no_timestamp_is_refused() {
        for text in [
            "", "2026-02-12", "2026-02-12T", "2026-02-30T10:00:00Z", "2025-02-29T10:00:00Z", "1900-02-29T10:00:00Z", "2026-13-01T10:00:00Z",
            "2026-00-01T10:00:00Z", "2026-01-00T10:00:00Z", "2026-02-12T24:00:00Z", "2026-02-12T10:60:00Z", "2026-02-12T10:00:60Z",
            "2026-02-12T10:00:60.000Z", "99999-01-01T00:00:00Z", "026-02-12T10:00:00Z", "2026-02-12X10:00:00Z", "2026-02-12T10:00:00.0000000001Z",
            "2026-02-12T10:00:00.000ZZ", "2026-02-12T10:00:00+19:00", "2026-02-12T10:00:00+18:01", "2026-02-12T10:00:00+2", "2026-02-12T10:00:00 Z",
            "2026-02-12T10:00:0Z", "2026-02-12T10:00:00,000Z", "2026-2-12T10:00:00Z", "-026-02-12T10:00:00Z", "2026-02-12T10:00:\u{e9}0Z",
            "2026-02-12T10:00:00.0:0Z", "2026-02-12T10:00:00+02:60", "2026-02-12T10:0/:00Z",
        ] {
            assert_eq!(millis(text), None, "{text}");
        }
        assert!(millis("2000-02-29T00:00:00Z").is_some());
    }

    #[test]
    fn option_narrows_the_spelling() {
        let read = |format, text: &str| TimestampParser::new(format, TimeUnit::Second).parse(text.as_bytes());
        assert!(read(TimestampFormat::Sql, "2026-02-12T10:00:00").is_err());
        assert!(read(TimestampFormat::Sql, "2026-02-12 10:00:00Z").is_ok());
        assert!(read(TimestampFormat::Iso8601, "2026-02-12 10:00:00").is_err());
        assert!(read(TimestampFormat::Iso8601, "2026-02-12T10:00:00").is_ok());
    }

    #[test]
    fn nanoseconds_have_a_range() {
        let mut parser = TimestampParser::new(TimestampFormat::Any, TimeUnit::Nanosecond);
        assert_eq!(parser.parse(b"2026-02-12T10:00:00.123456789Z"), Ok(1_770_890_400_123_456_789));
        assert_eq!(parser.parse(b"2262-04-11T23:47:16.854775807Z"), Ok(i64::MAX));
        assert_eq!(parser.parse(b"2262-04-11T23:47:16.854775808Z"), Err(TextError::OutOfRange));
        assert_eq!(parser.parse(b"0001-01-01T00:00:00Z"), Err(TextError::OutOfRange));
    }

    #[test]
    fn dates_and_times_of_day() {
        assert_eq!(parse_date(b"1970-01-02"), Ok(1));
        assert_eq!(parse_date(b"1969-12-31"), Ok(-1));
        assert!(parse_date(b"2026-02-29").is_err());
        assert!(parse_date(b"2026-02-12T").is_err());
        assert_eq!(parse_time_millis(b"10:00"), Ok(36_000_000));
        assert_eq!(parse_time_millis(b"23:59:59.9999"), Ok(86_399_999));
        assert!(parse_time_millis(b"24:00:00").is_err());
        assert!(parse_time_millis(b"10:00:00Z").is_err());
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut expected = parse_date(b"1600-01-01").expect("a date");
        for year in 1600..2000 {
            for month in 1..=12 {
                for day in 1..=days_in_month(year, month) {
                    let text = format!("{year:04}-{month:02}-{day:02}");
                    assert_eq!(parse_date(text.as_bytes()), Ok(expected), "{text}");
                    expected += 1;
                }
            }
        }
    }
}
