//! Where one record ends and the next begins in a file of JSON lines or CSV.
//!
//! A splitter does no I/O and looks at no value: it finds record bounds. CSV records may hold line
//! ends inside quotes; a quote opens a quoted field only at the field's start, as in RFC 4180.

use memchr::{memchr, memchr2};

use crate::contracts::RecordRange;

/// How records are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framing {
    /// One record a line; empty lines are no records.
    Lines,
    /// CSV records.
    Csv(CsvFraming),
}

/// What the bounds of CSV records depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvFraming {
    /// Between fields.
    pub delimiter: u8,
    /// Around fields; `None` when quoting is off.
    pub quote: Option<u8>,
    /// Takes the meaning from the byte after it.
    pub escape: Option<u8>,
    /// Whether lines that start with `#` are left out.
    pub comments: bool,
    /// Whether the first record of a file names the columns.
    pub header: bool,
}

impl Framing {
    /// Appends the bounds of all records that lie wholly in `data[from..]`, and returns where the first
    /// incomplete one starts. With `at_end`, what is left at the end is a record too.
    ///
    /// `data` must be shorter than 4 GiB.
    pub fn split(&self, data: &[u8], from: usize, at_end: bool, records: &mut Vec<RecordRange>) -> usize {
        match self {
            Self::Lines => split_lines(data, from, at_end, false, records),
            Self::Csv(CsvFraming { quote: None, escape: None, comments, .. }) => {
                split_lines(data, from, at_end, *comments, records)
            }
            Self::Csv(csv) => csv.split(data, from, at_end, records),
        }
    }
}

fn push(data: &[u8], start: usize, mut end: usize, comments: bool, records: &mut Vec<RecordRange>) {
    if end > start && data[end - 1] == b'\r' {
        end -= 1;
    }
    if end > start && !(comments && data[start] == b'#') {
        records.push(RecordRange { start: start as u32, end: end as u32 });
    }
}

fn split_lines(data: &[u8], from: usize, at_end: bool, comments: bool, records: &mut Vec<RecordRange>) -> usize {
    let mut start = from;
    for newline in memchr::memchr_iter(b'\n', &data[from..]) {
        push(data, start, from + newline, comments, records);
        start = from + newline + 1;
    }
    if at_end && start < data.len() {
        push(data, start, data.len(), comments, records);
        start = data.len();
    }
    start
}

/// How a CSV record ends.
enum RecordEnd {
    /// At this line end.
    At(usize),
    /// The data ends first, between two records or in the last one: nothing is wrong with it.
    WithTheData,
    /// The data ends within quotes.
    InQuotes,
}

impl CsvFraming {
    fn split(&self, data: &[u8], from: usize, at_end: bool, records: &mut Vec<RecordRange>) -> usize {
        let mut start = from;
        while start < data.len() {
            let end = match self.record_end(data, start) {
                RecordEnd::At(newline) => newline,
                _ if !at_end => break,
                RecordEnd::WithTheData => data.len(),
                // An unterminated quote at the end of the input must not swallow the lines after it.
                RecordEnd::InQuotes => memchr(b'\n', &data[start..]).map_or(data.len(), |i| start + i),
            };
            push(data, start, end, self.comments, records);
            start = (end + 1).min(data.len());
        }
        start
    }

    /// Where the record at `start` ends.
    fn record_end(&self, data: &[u8], start: usize) -> RecordEnd {
        let line_end = |found: Option<usize>| found.map_or(RecordEnd::WithTheData, RecordEnd::At);
        let Some(quote) = self.quote else { return line_end(self.unquoted_end(data, start)) };
        if self.comments && data[start] == b'#' {
            return line_end(memchr(b'\n', &data[start..]).map(|i| start + i));
        }
        let mut at = start;
        loop {
            let Some(found) = memchr2(quote, b'\n', &data[at..]) else { return RecordEnd::WithTheData };
            let found = at + found;
            let escaped = self.is_escaped(&data[at..found]);
            if data[found] == b'\n' && !escaped {
                return RecordEnd::At(found);
            }
            let opens = data[found] == quote && !escaped && (found == start || data[found - 1] == self.delimiter);
            at = match opens.then(|| self.quoted_end(data, found + 1, quote)) {
                None => found + 1,
                Some(Some(closed)) => closed,
                Some(None) => return RecordEnd::InQuotes,
            };
        }
    }

    /// Whether the byte behind `before` is escaped: an escape that is escaped itself says nothing of it.
    fn is_escaped(&self, before: &[u8]) -> bool {
        let Some(escape) = self.escape else { return false };
        before.iter().rev().take_while(|byte| **byte == escape).count() % 2 == 1
    }

    /// Index after the closing quote of the field that starts at `at`.
    fn quoted_end(&self, data: &[u8], mut at: usize, quote: u8) -> Option<usize> {
        loop {
            let found = match self.escape {
                Some(escape) => at + memchr2(quote, escape, data.get(at..)?)?,
                None => at + memchr(quote, data.get(at..)?)?,
            };
            if data[found] != quote || data.get(found + 1) == Some(&quote) {
                at = found + 2;
            } else {
                return Some(found + 1);
            }
        }
    }

    fn unquoted_end(&self, data: &[u8], start: usize) -> Option<usize> {
        let mut at = start;
        loop {
            let found = at + memchr(b'\n', &data[at..])?;
            if !self.is_escaped(&data[at..found]) {
                return Some(found);
            }
            at = found + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(framing: &Framing, text: &str, at_end: bool) -> (Vec<String>, usize) {
        let mut records = Vec::new();
        let rest = framing.split(text.as_bytes(), 0, at_end, &mut records);
        (records.iter().map(|r| text[r.as_range()].to_owned()).collect(), rest)
    }

    #[test]
    fn lines_skip_empty_ones_and_leave_the_last() {
        assert_eq!(split(&Framing::Lines, "a\r\n\nbc\nd", false), (vec!["a".into(), "bc".into()], 7));
        assert_eq!(split(&Framing::Lines, "a\nd", true), (vec!["a".into(), "d".into()], 3));
    }

    #[test]
    fn csv_quotes_hold_line_ends() {
        let csv = Framing::Csv(CsvFraming {
            delimiter: b',',
            quote: Some(b'"'),
            escape: None,
            comments: true,
            header: false,
        });
        let text = "1,\"a\nb\",2\n#c\n3,x\"y,4\n5,\"say \"\"hi\"\"\n\",\n6,\"open";
        let (records, rest) = split(&csv, text, false);
        assert_eq!(records, ["1,\"a\nb\",2", "3,x\"y,4", "5,\"say \"\"hi\"\"\n\","]);
        assert_eq!(&text[rest..], "6,\"open");
        assert_eq!(split(&csv, "6,\"open\n7,x\n", true).0, ["6,\"open", "7,x"]);
    }
    /// What a file has behind its last line end is a record as any other.
    #[test]
    fn the_last_record_may_lack_its_line_end() {
        let framing =
            |quote, escape| Framing::Csv(CsvFraming { delimiter: b',', quote, escape, comments: true, header: false });
        let (plain, escaping, bare) =
            (framing(Some(b'"'), None), framing(Some(b'"'), Some(b'\\')), framing(None, Some(b'\\')));
        for (framing, text, records, without_end) in [
            (&plain, "1,\"a\nb\"", &["1,\"a\nb\""][..], 0),
            (&plain, "0,x\n1,\"a\nb\",\"\n\"", &["0,x", "1,\"a\nb\",\"\n\""], 4),
            (&plain, "1,\"a\"\"\nb\"", &["1,\"a\"\"\nb\""], 0),
            // A quote that stays open takes nothing but its line.
            (&plain, "1,\"a\n2,\"b\nc\"\n3,\"d", &["1,\"a\n2,\"b", "c\"", "3,\"d"], 13),
            (&plain, "1,\"a\nb", &["1,\"a", "b"], 0),
            (&plain, "#a \"\nb", &["b"], 5),
            (&escaping, "1,\"a\\\"\nb\"", &["1,\"a\\\"\nb\""], 0),
            (&escaping, "1,a\\\nb", &["1,a\\\nb"], 0),
            (&bare, "1,a\\\nb", &["1,a\\\nb"], 0),
            // The escape is escaped: the line ends.
            (&escaping, "1,a\\\\\nb", &["1,a\\\\", "b"], 6),
            (&bare, "1,a\\\\\nb", &["1,a\\\\", "b"], 6),
            (&escaping, "1,\"a\\", &["1,\"a\\"], 0),
        ] {
            assert_eq!(
                split(framing, text, true),
                (records.iter().map(|r| r.to_string()).collect(), text.len()),
                "{text}"
            );
            assert_eq!(split(framing, text, false).1, without_end, "{text}");
        }
    }
}
