//! Java's date patterns, in English: reading a pattern and printing by it. Those of `java.time.format.DateTimeFormatter`
//! have optional parts in brackets and reserved signs; in those of `java.text.SimpleDateFormat` such signs are text.
//!
//! A pattern is compiled once per batch and literal. Printing keeps what neighbouring rows mostly share: the
//! text of all items before the first that can change within a minute. For `yyyy-MM-dd`, a group key of the
//! shipped job, that is the whole text; for a full timestamp all but seconds and their fraction.

use chrono_tz::Tz;
use datafusion::common::{Result, exec_err};

use super::calendar::{Moment, SECONDS_PER_DAY, civil_from_days, day_of_year, iso_weekday, us_week};

pub(crate) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
pub(crate) const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A piece of a pattern.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Item {
    Literal(String),
    /// A pattern letter and how often it is repeated.
    Field(char, usize),
    /// `[…]`: printed where possible, optional when parsed.
    Optional(Vec<Item>),
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    pub items: Vec<Item>,
    /// How many of the first items change at most once a minute …
    stable_items: usize,
    /// … and how many seconds their text holds: a minute, an hour, a day.
    stable_seconds: i64,
}

impl Pattern {
    /// Seconds that a printed text holds for, if it shows nothing below a minute.
    pub(super) fn stable_seconds(&self) -> Option<i64> {
        (self.stable_items == self.items.len()).then_some(self.stable_seconds)
    }

    /// A pattern of `DateTimeFormatter`.
    pub(super) fn parse(pattern: &str) -> Result<Pattern> {
        Self::parse_as(pattern, Signs::Reserved)
    }

    /// A pattern of `SimpleDateFormat`.
    pub(super) fn parse_simple(pattern: &str) -> Result<Pattern> {
        Self::parse_as(pattern, Signs::Text)
    }

    fn parse_as(pattern: &str, signs: Signs) -> Result<Pattern> {
        let mut chars: Vec<char> = pattern.chars().collect();
        chars.reverse();
        let items = parse_items(&mut chars, pattern, signs, false)?;
        let stable_items = items.iter().take_while(|item| stable_seconds(item) >= 60).count();
        let stable_seconds = items[..stable_items].iter().map(stable_seconds).min().unwrap_or(SECONDS_PER_DAY);
        Ok(Pattern { items, stable_items, stable_seconds })
    }
}

/// What brackets and braces in a pattern are.
#[derive(Clone, Copy, PartialEq)]
enum Signs {
    Reserved,
    Text,
}

/// Reads items up to the end, or to `]` inside brackets. `chars` is reversed.
fn parse_items(chars: &mut Vec<char>, pattern: &str, signs: Signs, nested: bool) -> Result<Vec<Item>> {
    let mut items: Vec<Item> = vec![];
    let literal = |items: &mut Vec<Item>, c: char| match items.last_mut() {
        Some(Item::Literal(text)) => text.push(c),
        _ => items.push(Item::Literal(c.to_string())),
    };
    while let Some(c) = chars.pop() {
        match c {
            '\'' => {
                if chars.last() == Some(&'\'') {
                    chars.pop();
                    literal(&mut items, '\'');
                    continue;
                }
                loop {
                    match chars.pop() {
                        Some('\'') if chars.last() == Some(&'\'') => {
                            chars.pop();
                            literal(&mut items, '\'');
                        }
                        Some('\'') => break,
                        Some(c) => literal(&mut items, c),
                        None => {
                            return exec_err!(
                                "date pattern '{pattern}' has a quoted text without an end; double the quote to print one"
                            );
                        }
                    }
                }
            }
            '[' | ']' | '{' | '}' | '#' if signs == Signs::Text => literal(&mut items, c),
            '[' => items.push(Item::Optional(parse_items(chars, pattern, signs, true)?)),
            ']' if nested => return Ok(items),
            c if c.is_ascii_alphabetic() => {
                let mut width = 1;
                while chars.last() == Some(&c) {
                    chars.pop();
                    width += 1;
                }
                let most = match c {
                    'G' | 'M' | 'L' | 'Q' | 'q' | 'E' | 'e' | 'c' | 'X' | 'x' | 'Z' => 5,
                    'y' | 'u' | 'Y' | 'n' | 'N' | 'A' => 19,
                    'S' => 9,
                    'D' => 3,
                    'd' | 'H' | 'h' | 'K' | 'k' | 'm' | 's' | 'w' => 2,
                    'a' | 'W' | 'F' => 1,
                    'z' | 'O' => 4,
                    'V' => 2,
                    _ => {
                        return exec_err!(
                            "date pattern '{pattern}' has the letter '{c}', which means nothing; quote text, as in 'yyyy-MM-dd''T''HH'"
                        );
                    }
                };
                if width > most {
                    return exec_err!(
                        "date pattern '{pattern}' has {width} times the letter '{c}', at most {most} have a meaning"
                    );
                }
                items.push(Item::Field(c, width));
            }
            '{' | '}' | '#' | ']' => {
                return exec_err!("date pattern '{pattern}' has the reserved character '{c}'; quote it: ''{c}''");
            }
            c => literal(&mut items, c),
        }
    }
    if nested {
        return exec_err!("date pattern '{pattern}' has '[' without ']'");
    }
    Ok(items)
}

fn stable_seconds(item: &Item) -> i64 {
    match item {
        Item::Literal(_) => SECONDS_PER_DAY,
        Item::Optional(items) => items.iter().map(stable_seconds).min().unwrap_or(SECONDS_PER_DAY),
        Item::Field(letter, _) => match letter {
            'y' | 'u' | 'Y' | 'M' | 'L' | 'd' | 'D' | 'E' | 'e' | 'c' | 'G' | 'Q' | 'q' | 'w' | 'W' | 'F' => {
                SECONDS_PER_DAY
            }
            'H' | 'h' | 'K' | 'k' | 'a' => 3_600,
            'm' => 60,
            _ => 0,
        },
    }
}

/// Prints times by one pattern, remembering the last one.
pub(crate) struct Printer<'a> {
    pattern: &'a Pattern,
    zone: Option<Tz>,
    /// Which stretch of `stable_seconds` the start of `text` belongs to, and how long that start is.
    stretch: Option<i64>,
    stable: usize,
    text: String,
    day: i64,
    date: (i64, i64, i64),
}

impl<'a> Printer<'a> {
    /// `zone` is that of instants, `None` for a TIMESTAMP without zone.
    pub(super) fn new(pattern: &'a Pattern, zone: Option<Tz>) -> Self {
        Printer { pattern, zone, stretch: None, stable: 0, text: String::new(), day: 0, date: (1970, 1, 1) }
    }

    /// The text of a wall-clock time that is `offset` seconds ahead of UTC: where the clocks go back, that tells the two
    /// hours of one name apart.
    pub(super) fn print(&mut self, (local, offset): (Moment, i64)) -> Result<&str> {
        let (stable, changing) = self.pattern.items.split_at(self.pattern.stable_items);
        let stretch = local.seconds.div_euclid(self.pattern.stable_seconds);
        if self.stretch == Some(stretch) && changing.is_empty() {
            return Ok(&self.text);
        }
        let day = local.days();
        if day != self.day {
            (self.day, self.date) = (day, civil_from_days(day));
        }
        let mut text = std::mem::take(&mut self.text);
        if self.stretch != Some(stretch) {
            text.clear();
            self.stretch = None;
            self.items(stable, (local, offset), &mut text)?;
            (self.stretch, self.stable) = (Some(stretch), text.len());
        }
        text.truncate(self.stable);
        let printed = self.items(changing, (local, offset), &mut text);
        self.text = text;
        printed?;
        Ok(&self.text)
    }

    fn items(&self, items: &[Item], time: (Moment, i64), out: &mut String) -> Result<()> {
        for item in items {
            match item {
                Item::Literal(text) => out.push_str(text),
                Item::Optional(items) => {
                    let length = out.len();
                    if self.items(items, time, out).is_err() {
                        out.truncate(length);
                    }
                }
                Item::Field(letter, width) => self.field(*letter, *width, time, out)?,
            }
        }
        Ok(())
    }

    fn field(&self, letter: char, width: usize, (local, offset): (Moment, i64), out: &mut String) -> Result<()> {
        let (year, month, day) = self.date;
        let second = local.second_of_day();
        let (hour, minute) = (second / 3_600, second / 60 % 60);
        match letter {
            'y' | 'u' | 'Y' => {
                let year = match letter {
                    'Y' => us_week(self.day).0,
                    'y' if year <= 0 => 1 - year, // year of era
                    _ => year,
                };
                if width == 2 { number(year.rem_euclid(100), 2, out) } else { number(year, width, out) }
            }
            'M' | 'L' if width >= 3 => name(MONTHS[month as usize - 1], width, out),
            'M' | 'L' => number(month, width, out),
            'd' => number(day, width, out),
            'D' => number(day_of_year(self.day), width, out),
            'H' => number(hour, width, out),
            'k' => number(if hour == 0 { 24 } else { hour }, width, out),
            'K' => number(hour % 12, width, out),
            'h' => number(if hour % 12 == 0 { 12 } else { hour % 12 }, width, out),
            'm' => number(minute, width, out),
            's' => number(second % 60, width, out),
            'S' => fraction(local.nanos, width, out),
            'n' => number(i64::from(local.nanos), width, out),
            'N' => number(second * 1_000_000_000 + i64::from(local.nanos), width, out),
            'A' => number(second * 1_000 + i64::from(local.nanos) / 1_000_000, width, out),
            'a' => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            'E' => name(WEEKDAYS[iso_weekday(self.day) as usize - 1], width.max(3), out),
            'e' | 'c' if width >= 3 => name(WEEKDAYS[iso_weekday(self.day) as usize - 1], width, out),
            'e' | 'c' => number(iso_weekday(self.day) % 7 + 1, width, out),
            'w' => number(us_week(self.day).1, width, out),
            'W' => {
                let first_weekday = iso_weekday(self.day - day + 1) % 7;
                number((day - 1 + first_weekday) / 7 + 1, width, out);
            }
            'F' => number((day - 1) % 7 + 1, width, out),
            'Q' | 'q' => {
                let quarter = (month + 2) / 3;
                match width {
                    1 | 2 | 5 => number(quarter, width % 5, out),
                    3 => out.push_str(&format!("Q{quarter}")),
                    _ => {
                        out.push_str(["1st quarter", "2nd quarter", "3rd quarter", "4th quarter"][quarter as usize - 1])
                    }
                }
            }
            'G' => out.push_str(match (width, year > 0) {
                (4, true) => "Anno Domini",
                (4, false) => "Before Christ",
                (5, true) => "A",
                (5, false) => "B",
                (_, true) => "AD",
                (_, false) => "BC",
            }),
            _ => return self.zone_field(letter, width, offset, out),
        }
        Ok(())
    }

    fn zone_field(&self, letter: char, width: usize, offset: i64, out: &mut String) -> Result<()> {
        let Some(zone) = self.zone else {
            return exec_err!(
                "a TIMESTAMP has no zone to print with '{letter}'; use a TIMESTAMP_LTZ, or quote the letter: ''{letter}''"
            );
        };
        match letter {
            'V' => out.push_str(zone.name()),
            'z' if offset == 0 => out.push_str(if width == 4 { "Coordinated Universal Time" } else { "UTC" }),
            'z' | 'v' => out.push_str(zone.name()),
            'O' => {
                out.push_str("GMT");
                if offset != 0 {
                    offset_text(offset, if width == 4 { 3 } else { 1 }, out);
                }
            }
            'X' if offset == 0 => out.push('Z'),
            'X' | 'x' => offset_text(offset, width, out),
            'Z' if width == 5 && offset == 0 => out.push('Z'),
            'Z' if width == 5 => offset_text(offset, 3, out),
            'Z' if width == 4 => {
                out.push_str("GMT");
                if offset != 0 {
                    offset_text(offset, 3, out);
                }
            }
            _ => offset_text(offset, 2, out),
        }
        Ok(())
    }
}

/// `+hh` (1, minutes only if any), `+hhmm` (2, 4), `+hh:mm` (3, 5).
fn offset_text(offset: i64, form: usize, out: &mut String) {
    out.push(if offset < 0 { '-' } else { '+' });
    let (hours, minutes) = (offset.abs() / 3_600, offset.abs() / 60 % 60);
    number(hours, 2, out);
    if form == 1 && minutes == 0 {
        return;
    }
    if form == 3 || form == 5 {
        out.push(':');
    }
    number(minutes, 2, out);
}

fn name(name: &str, width: usize, out: &mut String) {
    out.push_str(match width {
        3 => &name[..3],
        5 => &name[..1],
        _ => name,
    });
}

/// `00` to `99`.
const PAIRS: &str = "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849\
                     5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

fn pair(value: usize) -> &'static str {
    &PAIRS[value * 2..value * 2 + 2]
}

/// A number with at least `width` digits.
pub(crate) fn number(value: i64, width: usize, out: &mut String) {
    match (value, width) {
        (0..100, 2) => return out.push_str(pair(value as usize)),
        (0..1_000, 3) => {
            out.push(char::from(b'0' + (value / 100) as u8));
            return out.push_str(pair((value % 100) as usize));
        }
        (0..10_000, 4) => {
            out.push_str(pair((value / 100) as usize));
            return out.push_str(pair((value % 100) as usize));
        }
        _ => {}
    }
    let mut digits = [b'0'; 20];
    let mut rest = value.unsigned_abs();
    let mut at = digits.len();
    while rest > 0 || at > digits.len() - width.clamp(1, 19) {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    if value < 0 {
        out.push('-');
    }
    out.extend(digits[at..].iter().map(|digit| char::from(*digit)));
}

/// The first `width` digits of a fraction of a second.
pub(crate) fn fraction(nanos: u32, width: usize, out: &mut String) {
    let width = width.min(9);
    number(i64::from(nanos) / 10i64.pow(9 - width as u32), width, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::functions::calendar::days_from_civil;

    fn print(pattern: &str, seconds: i64, nanos: u32) -> String {
        let pattern = Pattern::parse(pattern).expect("a pattern");
        Printer::new(&pattern, None).print((Moment { seconds, nanos }, 0)).expect("a text").to_string()
    }

    #[test]
    fn prints_as_java_does() {
        let t = days_from_civil(2026, 2, 2) * SECONDS_PER_DAY + 3 * 3_600 + 4 * 60 + 5;
        assert_eq!(print("y M d H m s S", t, 678_000_000), "2026 2 2 3 4 5 6");
        assert_eq!(print("yyyy-MM-dd'T'HH:mm:ss.SSS'Z'", t, 678_000_000), "2026-02-02T03:04:05.678Z");
        assert_eq!(print("EEE, d MMM yy 'o''clock' ''", t, 0), "Mon, 2 Feb 26 o'clock '");
        assert_eq!(print("h a K k", t - 3 * 3_600, 0), "12 AM 0 24");
    }

    #[test]
    fn a_remembered_text_is_not_used_for_another_day() {
        let pattern = Pattern::parse("yyyy-MM-dd").expect("a pattern");
        let mut printer = Printer::new(&pattern, None);
        for (seconds, text) in
            [(0, "1970-01-01"), (86_399, "1970-01-01"), (86_400, "1970-01-02"), (-1, "1969-12-31"), (0, "1970-01-01")]
        {
            assert_eq!(printer.print((Moment { seconds, nanos: 0 }, 0)).expect("a text"), text);
        }
    }

    #[test]
    fn wrong_patterns_say_what_is_wrong() {
        for (pattern, part) in [
            ("yyyy'T", "without an end"),
            ("bogus", "letter 'b'"),
            ("a#", "reserved"),
            ("[yy", "without ']'"),
            ("ddd", "at most 2"),
        ] {
            let error = Pattern::parse(pattern).expect_err("an error").to_string();
            assert!(error.contains(part), "{error}");
        }
        for pattern in ["a#", "[yy", "yy]", "{yy}"] {
            assert!(Pattern::parse_simple(pattern).is_ok(), "{pattern} is of text in SimpleDateFormat");
        }
    }
}
