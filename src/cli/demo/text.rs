//! Numbers and times as people read them.

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// Cents as `1,234.56`.
pub(super) fn money(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    format!("{sign}{}.{:02}", grouped((cents / 100) as i64), cents % 100)
}

/// Bytes as `12.3 MB`.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// The time of day of an RFC 3339 text: `12:30:01`.
pub(super) fn clock_time(text: &str) -> &str {
    text.get(11..19).unwrap_or(text)
}

/// The minute of an RFC 3339 text: `12:30`.
pub(super) fn minute(text: &str) -> &str {
    text.get(11..16).unwrap_or(text)
}

/// Exactly `width` characters: cut with an ellipsis, or padded. Control characters, which could move the cursor, show
/// as '·'.
pub(super) fn fit(text: &str, width: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() { '·' } else { c });
    let mut out: String = clean.clone().take(width).collect();
    let length = clean.count();
    if length > width {
        out.pop();
        out.push('…');
    }
    out.extend(std::iter::repeat_n(' ', width.saturating_sub(length)));
    out
}

/// `left` and `right` at the ends of `width` characters; the right one is never cut.
pub(super) fn spread(left: &str, right: &str, width: usize) -> String {
    let rest = width.saturating_sub(right.chars().count() + 1);
    format!("{} {right}", fit(left, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        assert_eq!(
            [grouped(0), grouped(999), grouped(1_000), grouped(-1_234_567)],
            ["0", "999", "1,000", "-1,234,567"]
        );
        assert_eq!([money(5), money(-199), money(120_420)], ["0.05", "-1.99", "1,204.20"]);
        assert_eq!(fit("a\x1bbc", 3), "a·…");
        assert_eq!(spread("page", "12", 9), "page   12");
        assert_eq!(clock_time("2026-02-12T10:24:05.000Z"), "10:24:05");
    }
}
