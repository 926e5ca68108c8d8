//! Reading dates and timestamps: by a Java pattern, and in the forms that CAST and TO_TIMESTAMP take.
//!
//! Sources: `java.time.format.DateTimeFormatterBuilder` (adjacent numbers, smart resolution: 30 February is
//! the 28th or 29th) and Flink's `DateTimeUtils`, whose answers are in `tests/expressions/`.

use super::calendar::{Moment, SECONDS_PER_DAY, Zone, days_from_civil, is_date, month_length};
use super::time_pattern::{Item, MONTHS, Pattern, WEEKDAYS};

/// How exact the text must be.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    /// `DateTimeFormatter`: widths count, nothing may follow.
    Strict,
    /// `SimpleDateFormat`: any width, numbers roll over, what follows is ignored, two digits of a year are near.
    Lenient,
}

/// What a text said, field by field.
#[derive(Debug, Default, Clone)]
struct Fields {
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    day_of_year: Option<i64>,
    hour: Option<i64>,
    hour_of_half: Option<i64>,
    afternoon: Option<bool>,
    minute: Option<i64>,
    second: Option<i64>,
    nanos: Option<u32>,
    /// Seconds ahead of UTC.
    offset: Option<i64>,
}

/// A time that was read, with the offset or zone that the text had.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Read {
    pub local: Moment,
    pub offset: Option<i64>,
}

/// Reads a text by a pattern; `None` if it does not fit.
pub(crate) fn read(pattern: &Pattern, text: &str, mode: Mode) -> Option<Read> {
    let mut fields = Fields::default();
    let rest = items(&pattern.items, text, mode, &mut fields)?;
    if !rest.is_empty() && mode == Mode::Strict {
        return None;
    }
    resolve(&fields, mode)
}

fn items<'a>(items_left: &[Item], mut text: &'a str, mode: Mode, fields: &mut Fields) -> Option<&'a str> {
    for (i, item) in items_left.iter().enumerate() {
        text = match item {
            Item::Literal(literal) => text.strip_prefix(literal.as_str())?,
            Item::Optional(inner) => {
                let mut tried = fields.clone();
                match items(inner, text, mode, &mut tried) {
                    Some(rest) => {
                        *fields = tried;
                        rest
                    }
                    None => text,
                }
            }
            Item::Field(letter, width) => {
                let reserved = reserved_digits(&items_left[i + 1..]);
                field(*letter, *width, reserved, text, mode, fields)?
            }
        };
    }
    Some(text)
}

/// Digits that numbers right behind a number need, if they follow without a separator.
fn reserved_digits(items: &[Item]) -> usize {
    let widths = items.iter().map_while(|item| match item {
        Item::Field(letter, width) if is_number(*letter, *width) => Some(*width),
        _ => None,
    });
    widths.sum()
}

fn is_number(letter: char, width: usize) -> bool {
    match letter {
        'M' | 'L' => width <= 2,
        'y' | 'u' | 'd' | 'D' | 'H' | 'h' | 'K' | 'k' | 'm' | 's' | 'S' | 'n' => true,
        _ => false,
    }
}

fn field<'a>(
    letter: char,
    width: usize,
    reserved: usize,
    text: &'a str,
    mode: Mode,
    fields: &mut Fields,
) -> Option<&'a str> {
    if mode == Mode::Lenient && is_number(letter, width) {
        let text = text.trim_start();
        let most = if reserved > 0 { width } else { 19 };
        let (value, digits, rest) = digits(text, 1, most)?;
        match (letter, width, digits) {
            ('y', 1 | 2, 2) => fields.year = Some(near_year(value)),
            _ => set_number(letter, width, value, digits, fields)?,
        }
        return Some(rest);
    }
    let (least, most) = match (letter, width) {
        ('S', width) => (width, width),
        ('y' | 'u', 2) => (2, 2),
        ('y' | 'u', width) => (width, 19),
        (_, 1) => (1, 19),
        (_, width) => (width, width),
    };
    match letter {
        letter if is_number(letter, width) => {
            let negative = text.starts_with('-') && matches!(letter, 'u') && width != 2;
            let text = if negative { &text[1..] } else { text };
            let found = text.bytes().take_while(u8::is_ascii_digit).count();
            // A number of open width leaves the digits that the next ones need.
            let most = if most == 19 && reserved > 0 { found.saturating_sub(reserved).max(least) } else { most };
            let (value, digits, rest) = digits(text, least, most)?;
            // Java wants a sign where a year has more digits than its pattern.
            if width == 4 && matches!(letter, 'y' | 'u') && digits > 4 {
                return None;
            }
            set_number(letter, width, if negative { -value } else { value }, digits, fields)?;
            Some(rest)
        }
        'M' | 'L' => {
            let (index, rest) = match mode {
                Mode::Strict => one_of(text, &MONTHS, width == 3, mode)?,
                // Either form, whatever the pattern has.
                Mode::Lenient => one_of(text, &MONTHS, false, mode).or_else(|| one_of(text, &MONTHS, true, mode))?,
            };
            fields.month = Some(index as i64 + 1);
            Some(rest)
        }
        'E' | 'e' | 'c' => Some(one_of(text, &WEEKDAYS, width <= 3, mode)?.1),
        'a' => {
            let (index, rest) = one_of(text, &["AM", "PM"], false, mode)?;
            fields.afternoon = Some(index == 1);
            Some(rest)
        }
        'G' => Some(one_of(text, &["AD"], false, mode)?.1),
        'X' | 'x' | 'Z' | 'O' => offset(letter, width, text, fields),
        'z' | 'V' | 'v' => {
            let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "/_+-:".contains(c))).unwrap_or(text.len());
            fields.offset = Some(match Zone::parse(&text[..end])? {
                Zone::Fixed(offset) => offset,
                // Good enough for reading: the zone's offset at the local time is found when the date is known.
                Zone::Named(zone) => {
                    let local = resolve(&Fields { offset: None, ..fields.clone() }, mode)?.local.seconds;
                    local - super::calendar::instant_of(local, zone)
                }
            });
            Some(&text[end..])
        }
        _ => None,
    }
}

/// The year that two digits name. Java takes 80 years before and 20 after today; so that a replay reads what was read
/// before, it is always the same hundred years here.
fn near_year(digits: i64) -> i64 {
    if digits < 50 { 2_000 + digits } else { 1_900 + digits }
}

/// A number of `least` to `most` digits: value, count of digits, rest.
fn digits(text: &str, least: usize, most: usize) -> Option<(i64, usize, &str)> {
    let count = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
    if count < least || count == 0 {
        return None;
    }
    Some((text[..count].parse().ok()?, count, &text[count..]))
}

fn one_of<'a>(text: &'a str, names: &[&str], short: bool, mode: Mode) -> Option<(usize, &'a str)> {
    names.iter().enumerate().find_map(|(i, name)| {
        let name = if short { &name[..3] } else { name };
        let head = text.get(..name.len())?;
        let same = head == name || mode == Mode::Lenient && head.eq_ignore_ascii_case(name);
        same.then(|| (i, &text[name.len()..]))
    })
}

fn offset<'a>(letter: char, width: usize, text: &'a str, fields: &mut Fields) -> Option<&'a str> {
    if let Some(rest) = text.strip_prefix('Z').filter(|_| letter == 'X' || letter == 'Z' && width == 5) {
        fields.offset = Some(0);
        return Some(rest);
    }
    let text = if letter == 'O' || letter == 'Z' && width == 4 { text.strip_prefix("GMT")? } else { text };
    let sign = match text.as_bytes().first() {
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ if letter == 'O' || letter == 'Z' && width == 4 => {
            fields.offset = Some(0);
            return Some(text);
        }
        _ => return None,
    };
    let (hours, _, mut rest) = digits(&text[1..], if letter == 'O' { 1 } else { 2 }, 2)?;
    let colon = matches!((letter, width), ('X' | 'x', 3 | 5) | ('Z', 4 | 5) | ('O', 4));
    let optional = width == 1 && letter != 'Z';
    let minutes_text = if colon { rest.strip_prefix(':') } else { Some(rest) };
    let mut minutes = 0;
    match minutes_text.and_then(|text| digits(text, 2, 2)) {
        Some((value, _, after)) => (minutes, rest) = (value, after),
        None if optional => {}
        None => return None,
    }
    fields.offset = Some(sign * (hours * 3_600 + minutes * 60));
    Some(rest)
}

fn set_number(letter: char, width: usize, value: i64, digits: usize, fields: &mut Fields) -> Option<()> {
    match letter {
        'y' | 'u' if width == 2 && digits == 2 => fields.year = Some(2_000 + value),
        'y' | 'u' => fields.year = Some(value),
        'M' | 'L' => fields.month = Some(value),
        'd' => fields.day = Some(value),
        'D' => fields.day_of_year = Some(value),
        'H' => fields.hour = Some(value),
        'k' => fields.hour = Some(if value == 24 { 0 } else { value }),
        'h' => fields.hour_of_half = Some(if value == 12 { 0 } else { value }),
        'K' => fields.hour_of_half = Some(value),
        'm' => fields.minute = Some(value),
        's' => fields.second = Some(value),
        'S' => {
            fields.nanos = Some(u32::try_from(value.checked_mul(10i64.pow(9u32.checked_sub(digits as u32)?))?).ok()?)
        }
        'n' => fields.nanos = Some(u32::try_from(value).ok().filter(|nanos| *nanos < 1_000_000_000)?),
        _ => return None,
    }
    Some(())
}

/// Puts the fields together; what is missing is as in 1970-01-01 00:00:00.
fn resolve(fields: &Fields, mode: Mode) -> Option<Read> {
    let year = fields.year.unwrap_or(1970);
    if !super::calendar::YEARS.contains(&year) {
        return None;
    }
    let (month, day) = (fields.month.unwrap_or(1), fields.day.unwrap_or(1));
    let days = if let (Mode::Lenient, Some(day_of_year), None) = (mode, fields.day_of_year, fields.day) {
        days_from_civil(year, 1, 1) + day_of_year - 1
    } else if mode == Mode::Lenient {
        let index = year * 12 + month - 1;
        days_from_civil(index.div_euclid(12), index.rem_euclid(12) + 1, 1) + day - 1
    } else if let Some(day) = fields.day_of_year {
        if !(1..=366).contains(&day) {
            return None;
        }
        days_from_civil(year, 1, 1) + day - 1
    } else {
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        days_from_civil(year, month, day.min(month_length(year, month)))
    };
    let hour = match (fields.hour, fields.hour_of_half) {
        (Some(hour), _) => hour,
        (None, Some(hour)) => hour + if fields.afternoon == Some(true) { 12 } else { 0 },
        (None, None) => 0,
    };
    let (minute, second) = (fields.minute.unwrap_or(0), fields.second.unwrap_or(0));
    let nanos = fields.nanos.unwrap_or(0);
    let end_of_day = hour == 24 && minute == 0 && second == 0 && nanos == 0;
    if mode == Mode::Strict && (!(0..24).contains(&hour) && !end_of_day || minute > 59 || second > 59) {
        return None;
    }
    let seconds = days * SECONDS_PER_DAY + hour * 3_600 + minute * 60 + second;
    Some(Read { local: Moment { seconds, nanos }, offset: fields.offset })
}

/// A timestamp as CAST and TO_TIMESTAMP without a pattern take it: `yyyy-[M]M-[d]d[ [H]H:[m]m:[s]s[.f]]`.
pub(crate) fn timestamp(text: &str) -> Option<Moment> {
    let (year, rest) = number(text, 4, 4)?;
    let (month, rest) = number(rest.strip_prefix('-')?, 1, 2)?;
    let (day, rest) = number(rest.strip_prefix('-')?, 1, 2)?;
    let mut fields = Fields { year: Some(year), month: Some(month), day: Some(day), ..Fields::default() };
    if !rest.is_empty() {
        let (hour, rest) = number(rest.strip_prefix(' ')?, 1, 2)?;
        let (minute, rest) = number(rest.strip_prefix(':')?, 1, 2)?;
        let (second, rest) = number(rest.strip_prefix(':')?, 1, 2)?;
        (fields.hour, fields.minute, fields.second) = (Some(hour), Some(minute), Some(second));
        if let Some(fraction) = rest.strip_prefix('.') {
            let (value, digits, rest) = digits(fraction, 1, 9)?;
            if !rest.is_empty() {
                return None;
            }
            set_number('S', digits, value, digits, &mut fields)?;
        } else if !rest.is_empty() {
            return None;
        }
    }
    resolve(&fields, Mode::Strict).map(|read| read.local)
}

/// A date as CAST takes it: `y[-M[-d]]`, and what follows a space is ignored. The day number.
pub(crate) fn date(text: &str) -> Option<i64> {
    let text = match text.find(' ') {
        Some(space) if space > 0 => &text[..space],
        _ => text,
    };
    let mut parts = text.trim().splitn(3, '-').map(|part| part.trim().parse::<i64>().ok());
    let year = parts.next()??;
    let month = parts.next().unwrap_or(Some(1))?;
    let day = parts.next().unwrap_or(Some(1))?;
    let fits = super::calendar::YEARS.contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    (fits && is_date(year, month, day)).then(|| days_from_civil(year, month, day))
}

/// A time as CAST takes it: `H[:m[:s[.f]]]`; milliseconds of the day.
pub(crate) fn time(text: &str) -> Option<i64> {
    let (clock, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let mut parts = clock.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let hour = parts.next()??;
    let minute = parts.next().unwrap_or(Some(0))?;
    let second = parts.next().unwrap_or(Some(0))?;
    let millis = match fraction {
        "" => 0,
        digits if digits.bytes().all(|digit| digit.is_ascii_digit()) => format!("{digits:0<3.3}").parse().ok()?,
        _ => return None,
    };
    let fits = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..60).contains(&second);
    fits.then_some(((hour * 60 + minute) * 60 + second) * 1_000 + millis)
}

fn number(text: &str, least: usize, most: usize) -> Option<(i64, &str)> {
    digits(text, least, most).map(|(value, _, rest)| (value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(pattern: &str, text: &str) -> Option<i64> {
        read(&Pattern::parse(pattern).expect("a pattern"), text, Mode::Strict).map(|read| read.local.seconds)
    }

    #[test]
    fn reads_by_pattern() {
        let noon = days_from_civil(2026, 2, 12) * SECONDS_PER_DAY + 12 * 3_600;
        assert_eq!(seconds("yyyyMMddHHmmss", "20260212120000"), Some(noon));
        assert_eq!(seconds("EEE, d MMM yyyy hh:mm a", "Thu, 12 Feb 2026 12:00 PM"), Some(noon));
        assert_eq!(seconds("yyyy-MM-dd'T'HH:mm:ss.SSSX", "2026-02-12T12:00:00.000Z"), Some(noon));
        assert_eq!(seconds("yyyy-MM-dd[ HH:mm]", "2026-02-12"), Some(noon - 12 * 3_600));
        assert_eq!(seconds("yyyy-MM-dd", "2026-2-12"), None);
        assert_eq!(seconds("yyyy-MM-dd", "2026-02-12x"), None);
        assert_eq!(seconds("yyyy-MM-dd", "2026-13-12"), None);
    }

    #[test]
    fn a_simple_pattern_reads_what_rolls_over_and_days_of_a_year() {
        let day = |pattern: &str, text: &str| {
            let pattern = Pattern::parse_simple(pattern).expect("a pattern");
            read(&pattern, text, Mode::Lenient).map(|read| read.local.days())
        };
        assert_eq!(day("yyyyDDD", "2026043"), Some(days_from_civil(2026, 2, 12)));
        assert_eq!(day("yyyy-MM-DDD", "2026-03-043"), Some(days_from_civil(2026, 2, 12)));
        assert_eq!(day("yyyy-MM-dd DDD", "2026-03-04 100"), Some(days_from_civil(2026, 3, 4)));
        assert_eq!(day("dd.MM.yy", "31.12.99"), Some(days_from_civil(1999, 12, 31)));
        assert_eq!(day("dd.MM.yy", "31.12.49"), Some(days_from_civil(2049, 12, 31)));
        assert_eq!(day("dd.MM.yy", "31.12.1999"), Some(days_from_civil(1999, 12, 31)));
        assert_eq!(day("y", "99"), Some(days_from_civil(1999, 1, 1)));
        assert_eq!(day("d MMM yyyy", "12 February 2026"), Some(days_from_civil(2026, 2, 12)));
        assert_eq!(day("d MMMM yyyy", "12 feb 2026"), Some(days_from_civil(2026, 2, 12)));
        assert_eq!(day("[yyyy-MM-dd]", "[2026-02-12]"), Some(days_from_civil(2026, 2, 12)));
        assert_eq!(day("[yyyy-MM-dd]", "2026-02-12"), None);
    }

    #[test]
    fn reads_plain_forms() {
        let day = days_from_civil(2026, 2, 3);
        assert_eq!(timestamp("2026-2-3 4:5:6").map(|moment| moment.seconds), Some(day * SECONDS_PER_DAY + 14_706));
        assert_eq!(timestamp("2026-02-03T04:05:06"), None);
        assert_eq!(timestamp("2026-02-03 04:05:06.5").map(|moment| moment.nanos), Some(500_000_000));
        assert_eq!(
            (date("2026-2-3"), date("2026-02-30"), date("2026")),
            (Some(day), None, Some(days_from_civil(2026, 1, 1)))
        );
        assert_eq!((time("10:11"), time("25:00"), time("10:11:12.34")), (Some(36_660_000), None, Some(36_672_340)));
    }
}
