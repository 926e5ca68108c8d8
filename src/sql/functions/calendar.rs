//! Calendar arithmetic on whole numbers: the proleptic Gregorian calendar of `java.time`.
//!
//! Days count from 1970-01-01, seconds from its midnight; both may be negative. The conversions are Howard
//! Hinnant's (<https://howardhinnant.github.io/date_algorithms.html>), month arithmetic is that of Calcite's
//! `DateTimeUtils.addMonths` and `subtractMonths`, which Flink uses.

use chrono::{MappedLocalTime, NaiveDate, NaiveDateTime, Offset, TimeZone};
use chrono_tz::Tz;

pub(crate) const SECONDS_PER_DAY: i64 = 86_400;
pub(crate) const NANOS_PER_SECOND: i64 = 1_000_000_000;
/// Years that `java.time` and a four-byte day number both hold with ease; others are no timestamps of data.
pub(crate) const YEARS: std::ops::RangeInclusive<i64> = -9_999..=99_999;

/// A point on a time line with nanoseconds: an instant, or a wall-clock time counted as if in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub seconds: i64,
    pub nanos: u32,
}

impl Moment {
    /// From a count of `per_second`-ths of a second.
    pub(super) fn from_units(value: i64, per_second: i64) -> Self {
        let nanos = value.rem_euclid(per_second) * (NANOS_PER_SECOND / per_second);
        Moment { seconds: value.div_euclid(per_second), nanos: nanos as u32 }
    }

    /// As a count of `per_second`-ths, cut towards the past; `None` where it does not fit.
    pub(super) fn to_units(self, per_second: i64) -> Option<i64> {
        let part = i64::from(self.nanos) / (NANOS_PER_SECOND / per_second);
        self.seconds.checked_mul(per_second)?.checked_add(part)
    }

    pub(super) fn days(self) -> i64 {
        self.seconds.div_euclid(SECONDS_PER_DAY)
    }

    pub(super) fn second_of_day(self) -> i64 {
        self.seconds.rem_euclid(SECONDS_PER_DAY)
    }
}

/// Year, month (1 to 12) and day (1 to 31) of a day number.
pub(crate) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The day number of a date; days past the month's end run into the next month.
pub(crate) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let mp = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * mp + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

pub(crate) fn month_length(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// A later (or earlier) month's same day, or its last day if it is shorter.
pub(crate) fn add_months(days: i64, months: i64) -> i64 {
    let (year, month, day) = civil_from_days(days);
    let index = year * 12 + month - 1 + months;
    let (year, month) = (index.div_euclid(12), index.rem_euclid(12) + 1);
    days_from_civil(year, month, day.min(month_length(year, month)))
}

/// Whole months from `from` to `to`, by day numbers: 31 January to 28 February is one.
fn months_between_days(to: i64, from: i64) -> i64 {
    if to < from {
        return -months_between_days(from, to);
    }
    let mut months = (to - from) / 31; // never more than the true value
    loop {
        if add_months(from, months) >= to || add_months(from, months + 1) > to {
            return months;
        }
        months += 1;
    }
}

/// Whole months from `from` to `to`, as Calcite counts them.
pub(crate) fn months_between(to: Moment, from: Moment) -> i64 {
    let months = months_between_days(to.days(), from.days());
    let clock = |moment: Moment| (moment.second_of_day(), moment.nanos);
    if add_months(from.days(), months) == to.days() && clock(to) < clock(from) { months - 1 } else { months }
}

/// 1 (Monday) to 7 (Sunday).
pub(crate) fn iso_weekday(days: i64) -> i64 {
    (days + 3).rem_euclid(7) + 1
}

pub(crate) fn day_of_year(days: i64) -> i64 {
    days - days_from_civil(civil_from_days(days).0, 1, 1) + 1
}

/// Year and week by ISO 8601: weeks start on Monday, week 1 holds the first Thursday.
pub(crate) fn iso_week(days: i64) -> (i64, i64) {
    let thursday = days - iso_weekday(days) + 4;
    let year = civil_from_days(thursday).0;
    (year, (thursday - days_from_civil(year, 1, 1)) / 7 + 1)
}

/// Year and week as Java's `Locale.US` has them: weeks start on Sunday, week 1 holds 1 January.
pub(crate) fn us_week(days: i64) -> (i64, i64) {
    let saturday = days + 6 - iso_weekday(days).rem_euclid(7);
    let year = civil_from_days(saturday).0;
    let first = days_from_civil(year, 1, 1);
    let first_sunday = first - iso_weekday(first).rem_euclid(7);
    (year, (days - first_sunday) / 7 + 1)
}

fn naive(seconds: i64) -> Option<NaiveDateTime> {
    chrono::DateTime::from_timestamp(seconds, 0).map(|time| time.naive_utc())
}

/// Seconds that a zone is ahead of UTC at an instant.
pub(crate) fn offset_at(seconds: i64, zone: Tz) -> i64 {
    if zone == Tz::UTC {
        return 0;
    }
    naive(seconds).map_or(0, |time| i64::from(zone.offset_from_utc_datetime(&time).fix().local_minus_utc()))
}

/// The instant of a wall-clock time. As in `java.time`: a time that occurs twice is the first of the two,
/// one that is skipped is moved on by the length of the gap.
pub(crate) fn instant_of(local_seconds: i64, zone: Tz) -> i64 {
    instants_of(local_seconds, zone).0
}

/// The same as in `java.util`: a time that occurs twice is the second of the two.
pub(crate) fn later_instant_of(local_seconds: i64, zone: Tz) -> i64 {
    instants_of(local_seconds, zone).1
}

/// The first and the last instant of a wall-clock time.
fn instants_of(local_seconds: i64, zone: Tz) -> (i64, i64) {
    if zone == Tz::UTC {
        return (local_seconds, local_seconds);
    }
    let Some(time) = naive(local_seconds) else { return (local_seconds, local_seconds) };
    let at = |offset: i64| local_seconds - offset;
    match zone.offset_from_local_datetime(&time).map(|offset| i64::from(offset.fix().local_minus_utc())) {
        MappedLocalTime::Single(offset) => (at(offset), at(offset)),
        MappedLocalTime::Ambiguous(first, last) => (at(first), at(last)),
        // The offset before the gap: a day earlier, taken as an instant, is before it in every zone.
        MappedLocalTime::None => {
            let offset = offset_at(local_seconds - SECONDS_PER_DAY, zone);
            (at(offset), at(offset))
        }
    }
}

/// Short names that `java.util.TimeZone` knows beside those of the zone database, sorted.
const SHORT_NAMES: [(&str, Tz); 25] = [
    ("ACT", Tz::Australia__Darwin),
    ("AET", Tz::Australia__Sydney),
    ("AGT", Tz::America__Argentina__Buenos_Aires),
    ("ART", Tz::Africa__Cairo),
    ("AST", Tz::America__Anchorage),
    ("BET", Tz::America__Sao_Paulo),
    ("BST", Tz::Asia__Dhaka),
    ("CAT", Tz::Africa__Harare),
    ("CNT", Tz::America__St_Johns),
    ("CST", Tz::America__Chicago),
    ("CTT", Tz::Asia__Shanghai),
    ("EAT", Tz::Africa__Addis_Ababa),
    ("ECT", Tz::Europe__Paris),
    ("IET", Tz::America__Indiana__Indianapolis),
    ("IST", Tz::Asia__Kolkata),
    ("JST", Tz::Asia__Tokyo),
    ("MIT", Tz::Pacific__Apia),
    ("NET", Tz::Asia__Yerevan),
    ("NST", Tz::Pacific__Auckland),
    ("PLT", Tz::Asia__Karachi),
    ("PNT", Tz::America__Phoenix),
    ("PRT", Tz::America__Puerto_Rico),
    ("PST", Tz::America__Los_Angeles),
    ("SST", Tz::Pacific__Guadalcanal),
    ("VST", Tz::Asia__Ho_Chi_Minh),
];

/// Parses a zone's name, short ones too, or an offset such as `+02:00`, `GMT+2`, `GMT-0800` or `Z`.
#[derive(Debug, PartialEq)]
pub(crate) enum Zone {
    Named(Tz),
    Fixed(i64),
}

impl Zone {
    pub(super) fn parse(name: &str) -> Option<Zone> {
        if name == "Z" {
            return Some(Zone::Fixed(0));
        }
        if let Ok(zone) = name.parse::<Tz>() {
            return Some(Zone::Named(zone));
        }
        if let Ok(found) = SHORT_NAMES.binary_search_by_key(&name, |(short, _)| *short) {
            return Some(Zone::Named(SHORT_NAMES[found].1));
        }
        let offset = ["GMT", "UTC", "UT"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        let (sign, digits) = match offset.as_bytes().first()? {
            b'+' => (1, &offset[1..]),
            b'-' => (-1, &offset[1..]),
            _ => return None,
        };
        let (hours, minutes) = match digits.split_once(':') {
            Some(parts) => parts,
            // `hmm` and `hhmm`.
            None if digits.is_ascii() && digits.len() > 2 => digits.split_at(digits.len() - 2),
            None => (digits, "0"),
        };
        let (hours, minutes) = (hours.parse::<i64>().ok()?, minutes.parse::<i64>().ok()?);
        (hours <= 23 && minutes < 60).then_some(Zone::Fixed(sign * (hours * 3_600 + minutes * 60)))
    }

    pub(super) fn offset_at(&self, seconds: i64) -> i64 {
        match self {
            Zone::Named(zone) => offset_at(seconds, *zone),
            Zone::Fixed(offset) => *offset,
        }
    }

    pub(super) fn instant_of(&self, local_seconds: i64) -> i64 {
        match self {
            Zone::Named(zone) => instant_of(local_seconds, *zone),
            Zone::Fixed(offset) => local_seconds - offset,
        }
    }

    pub(super) fn later_instant_of(&self, local_seconds: i64) -> i64 {
        match self {
            Zone::Named(zone) => later_instant_of(local_seconds, *zone),
            Zone::Fixed(offset) => local_seconds - offset,
        }
    }
}

/// True if the date exists.
pub(crate) fn is_date(year: i64, month: i64, day: i64) -> bool {
    i32::try_from(year).is_ok_and(|year| NaiveDate::from_ymd_opt(year, month as u32, day as u32).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_inverse() {
        for days in (-800_000..2_000_000).step_by(13) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
            assert!(is_date(year, month, day));
        }
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(-1), (1969, 12, 31));
    }

    #[test]
    fn months_are_calcites() {
        let day = |y, m, d| Moment { seconds: days_from_civil(y, m, d) * SECONDS_PER_DAY, nanos: 0 };
        assert_eq!(months_between(day(2026, 2, 28), day(2026, 1, 31)), 1);
        assert_eq!(months_between(day(2026, 2, 28), day(2026, 3, 31)), -1);
        assert_eq!(months_between(day(2025, 2, 28), day(2024, 2, 29)) / 12, 1);
        assert_eq!(add_months(days_from_civil(2026, 1, 31), 1), days_from_civil(2026, 2, 28));
    }

    #[test]
    fn a_skipped_hour_moves_on_and_a_double_one_is_the_first() {
        let berlin = Tz::Europe__Berlin;
        let local = |h: i64, m: i64| days_from_civil(2026, 3, 29) * SECONDS_PER_DAY + h * 3_600 + m * 60;
        assert_eq!(instant_of(local(2, 30), berlin), local(1, 30)); // 02:30 does not exist: 03:30+02:00
        assert_eq!(instant_of(local(4, 0), berlin), local(2, 0));
        let autumn = days_from_civil(2026, 10, 25) * SECONDS_PER_DAY + 2 * 3_600 + 1_800;
        assert_eq!(instant_of(autumn, berlin), autumn - 7_200);
        assert_eq!(later_instant_of(autumn, berlin), autumn - 3_600);
    }

    #[test]
    fn a_skipped_hour_moves_on_in_every_zone() {
        // Zone, day, hour and minute of a time that is skipped, and the offset before.
        for (zone, (year, month, day), (hour, minute), before) in [
            (Tz::Europe__Athens, (2026, 3, 29), (3, 30), 2),
            (Tz::Africa__Cairo, (2026, 4, 24), (0, 0), 2),
            (Tz::Australia__Sydney, (2026, 10, 4), (2, 30), 10),
            (Tz::Pacific__Auckland, (2026, 9, 27), (2, 30), 12),
            (Tz::America__Los_Angeles, (2026, 3, 8), (2, 30), -8),
        ] {
            let local = days_from_civil(year, month, day) * SECONDS_PER_DAY + hour * 3_600 + minute * 60;
            assert_eq!(instant_of(local, zone), local - before * 3_600, "{zone}");
            assert_eq!(later_instant_of(local, zone), local - before * 3_600, "{zone}");
        }
    }

    #[test]
    fn zones_have_javas_short_names_and_offsets() {
        assert!(SHORT_NAMES.is_sorted_by_key(|(name, _)| *name));
        for (name, zone) in [
            ("PST", Some(Zone::Named(Tz::America__Los_Angeles))),
            ("IST", Some(Zone::Named(Tz::Asia__Kolkata))),
            ("GMT-0800", Some(Zone::Fixed(-8 * 3_600))),
            ("GMT-800", Some(Zone::Fixed(-8 * 3_600))),
            ("GMT-8:30", Some(Zone::Fixed(-8 * 3_600 - 1_800))),
            ("GMT+23", Some(Zone::Fixed(23 * 3_600))),
            ("GMT+25", None),
            ("GMT+0860", None),
            ("+2", Some(Zone::Fixed(2 * 3_600))),
            ("Nowhere/X", None),
        ] {
            assert_eq!(Zone::parse(name), zone, "{name}");
        }
    }

    #[test]
    fn weeks() {
        let day = days_from_civil(2026, 2, 12);
        assert_eq!((iso_week(day), us_week(day)), ((2026, 7), (2026, 7)));
        assert_eq!(iso_week(days_from_civil(2023, 1, 1)), (2022, 52));
        assert_eq!(us_week(days_from_civil(2026, 12, 31)), (2027, 1));
    }
}
