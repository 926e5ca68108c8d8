//! Dates and times as text, without allocation: civil dates by Howard Hinnant's `days_from_civil` arithmetic.

use arrow::datatypes::TimeUnit;

/// How a timestamp is spelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampStyle {
    /// `2026-02-12 10:00:00.5`, with `Z` after it for TIMESTAMP_LTZ: Flink's default in JSON. The fraction has as many
    /// digits as it needs, none for a whole second.
    Sql,
    /// `2026-02-12T10:00:00.5`, likewise.
    Iso8601,
    /// `2026-02-12T10:00:00.500Z`: items and messages. Milliseconds always; what is finer has 6 or 9 digits, so that two
    /// times never have one text: `2026-02-12T10:00:00.500001Z`.
    Rfc3339Millis,
}

/// Year, month and day of a day number (days since 1970-01-01).
pub fn civil(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Two digits.
pub fn write_2(value: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'0' + (value / 10 % 10) as u8, b'0' + (value % 10) as u8]);
}

/// A whole number.
pub fn write_integer(value: i128, out: &mut Vec<u8>) {
    let mut digits = [0u8; 40];
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    // 128-bit division is slow: do it only for the part that needs it.
    while rest > u128::from(u64::MAX) {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let mut rest = rest as u64;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// An exact decimal, `unscaled / 10^scale`, in plain digits.
pub fn write_decimal(unscaled: i128, scale: i8, out: &mut Vec<u8>) {
    if scale <= 0 {
        write_integer(unscaled, out);
        if unscaled != 0 {
            out.resize(out.len() + usize::from(scale.unsigned_abs()), b'0');
        }
        return;
    }
    let mut digits = Vec::with_capacity(44);
    write_integer(unscaled, &mut digits);
    place_point(&digits, scale as usize, out);
}

/// Puts the decimal point before the last `scale` digits.
pub fn place_point(digits: &[u8], scale: usize, out: &mut Vec<u8>) {
    let digits = match digits.strip_prefix(b"-") {
        Some(rest) => {
            out.push(b'-');
            rest
        }
        None => digits,
    };
    let whole = digits.len().saturating_sub(scale);
    if whole == 0 {
        out.push(b'0');
    }
    out.extend_from_slice(&digits[..whole]);
    out.push(b'.');
    out.resize(out.len() + scale.saturating_sub(digits.len()), b'0');
    out.extend_from_slice(&digits[whole..]);
}

/// `yyyy-MM-dd`
pub fn write_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(days);
    write_year(year, out);
    out.push(b'-');
    write_2(month, out);
    out.push(b'-');
    write_2(day, out);
}

fn write_year(year: i64, out: &mut Vec<u8>) {
    if (0..=9999).contains(&year) {
        write_2((year / 100) as u32, out);
        write_2((year % 100) as u32, out);
    } else {
        // As java.time: a sign beyond four digits.
        out.push(if year < 0 { b'-' } else { b'+' });
        let mut digits = Vec::new();
        write_integer(i128::from(year.unsigned_abs()), &mut digits);
        out.resize(out.len() + 4usize.saturating_sub(digits.len()), b'0');
        out.extend_from_slice(&digits);
    }
}

/// Units per second.
pub fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// `HH:mm:ss` and as many digits of the fraction as it needs.
pub fn write_time(value: i64, unit: TimeUnit, out: &mut Vec<u8>) {
    write_clock(value.div_euclid(per_second(unit)), out);
    write_fraction(value.rem_euclid(per_second(unit)), unit, out);
}

fn write_clock(second_of_day: i64, out: &mut Vec<u8>) {
    let s = second_of_day as u32;
    write_2(s / 3600, out);
    out.push(b':');
    write_2(s / 60 % 60, out);
    out.push(b':');
    write_2(s % 60, out);
}

fn write_fraction(fraction: i64, unit: TimeUnit, out: &mut Vec<u8>) {
    if fraction == 0 {
        return;
    }
    let mut step = per_second(unit);
    let mut rest = fraction;
    out.push(b'.');
    while rest > 0 {
        step /= 10;
        out.push(b'0' + (rest / step) as u8);
        rest %= step;
    }
}

/// A fraction of a second in 3, 6 or 9 digits.
fn write_groups(nanoseconds: i64, out: &mut Vec<u8>) {
    let last = match nanoseconds {
        whole if whole % 1_000_000 == 0 => 1_000_000,
        finer if finer % 1_000 == 0 => 1_000,
        _ => 1,
    };
    out.push(b'.');
    let mut step = 100_000_000;
    while step >= last {
        out.push(b'0' + (nanoseconds / step % 10) as u8);
        step /= 10;
    }
}

/// A timestamp. `zoned` is TIMESTAMP_LTZ, written in UTC.
pub fn write_timestamp(value: i64, unit: TimeUnit, zoned: bool, style: TimestampStyle, out: &mut Vec<u8>) {
    let each = per_second(unit);
    let seconds = value.div_euclid(each);
    let fraction = value.rem_euclid(each);
    write_date(seconds.div_euclid(86_400), out);
    out.push(if style == TimestampStyle::Sql { b' ' } else { b'T' });
    write_clock(seconds.rem_euclid(86_400), out);
    if style == TimestampStyle::Rfc3339Millis {
        write_groups(fraction * (1_000_000_000 / each), out);
        out.push(b'Z');
    } else {
        write_fraction(fraction, unit, out);
        if zoned {
            out.push(b'Z');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dates_agree_with_chrono() {
        for days in (-800_000..3_000_000).step_by(997) {
            let date = chrono::DateTime::from_timestamp(days * 86_400, 0).unwrap().date_naive();
            let expected = date.format("%Y-%m-%d").to_string();
            if (0..=9999).contains(&chrono::Datelike::year(&date)) {
                assert_eq!(text(|o| write_date(days, o)), expected);
            }
        }
    }

    #[test]
    fn timestamps_and_decimals() {
        let ms = 1_770_890_400_500;
        let at = |style, zoned| text(|o| write_timestamp(ms, TimeUnit::Millisecond, zoned, style, o));
        assert_eq!(at(TimestampStyle::Sql, false), "2026-02-12 10:00:00.5");
        assert_eq!(at(TimestampStyle::Iso8601, true), "2026-02-12T10:00:00.5Z");
        assert_eq!(at(TimestampStyle::Rfc3339Millis, false), "2026-02-12T10:00:00.500Z");
        // What needs no more digits has no more, of whatever unit it is; what needs them keeps them.
        for (value, unit, expected) in [
            (1_770_890_400, TimeUnit::Second, "2026-02-12T10:00:00.000Z"),
            (1_770_890_400_500_000, TimeUnit::Microsecond, "2026-02-12T10:00:00.500Z"),
            (1_770_890_400_500_001, TimeUnit::Microsecond, "2026-02-12T10:00:00.500001Z"),
            (1_770_890_400_500_000_000, TimeUnit::Nanosecond, "2026-02-12T10:00:00.500Z"),
            (1_770_890_400_000_010_000, TimeUnit::Nanosecond, "2026-02-12T10:00:00.000010Z"),
            (1_770_890_400_500_000_001, TimeUnit::Nanosecond, "2026-02-12T10:00:00.500000001Z"),
            (-1, TimeUnit::Nanosecond, "1969-12-31T23:59:59.999999999Z"),
            (-1_000, TimeUnit::Microsecond, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(text(|o| write_timestamp(value, unit, true, TimestampStyle::Rfc3339Millis, o)), expected);
        }
        assert_eq!(
            text(|o| write_timestamp(-1, TimeUnit::Microsecond, false, TimestampStyle::Sql, o)),
            "1969-12-31 23:59:59.999999"
        );
        assert_eq!(text(|o| write_decimal(-5, 2, o)), "-0.05");
        assert_eq!(text(|o| write_decimal(1250, 2, o)), "12.50");
        assert_eq!(text(|o| write_decimal(12, -2, o)), "1200");
        assert_eq!(text(|o| write_decimal(i128::MAX, 38, o)), "1.70141183460469231731687303715884105727");
        assert_eq!(text(|o| write_integer(i128::MIN, o)), "-170141183460469231731687303715884105728");
    }
}
