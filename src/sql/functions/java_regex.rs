//! Java's regular expressions in the syntax of the `regex` crate.
//!
//! | Java | here |
//! |---|---|
//! | `\d \w \s \h \v`, `\p{Alpha}` and its kin | their sets, which are of ASCII (but for `\h`, `\v`) |
//! | `.` | anything but `\n \r U+0085 U+2028 U+2029`, unless (?s) |
//! | `$`, `\Z` | the end: [`Translation::before_last_line_end`] says that a last line end may follow |
//! | (?m) | lines end with `\r`, `\n` and both |
//! | `a++`, `a*+`, `a{2}+` | without the `+`, which only forbids going back |
//! | `\R`, `\e`, `\cX`, `\0n`, `\Q…\E`, `\<` | spelled out |
//!
//! What the crate has no form for (`(?>…)`, `(?U)`, `(?d)`) is refused here; look-around, back-references and what is
//! no pattern at all are left to the crate, whose message says what it is.

use std::borrow::Cow;
use std::iter::Peekable;
use std::ops::Range;
use std::str::Chars;

use regex::{Captures, Match, Regex};

/// A compiled pattern, which finds what Java's `Matcher` finds.
#[derive(Debug)]
pub(crate) struct JavaPattern {
    regex: Regex,
    before_last_line_end: bool,
}

impl JavaPattern {
    pub(super) fn new(translation: &Translation) -> Result<Self, regex::Error> {
        let before_last_line_end = translation.before_last_line_end;
        Ok(JavaPattern { regex: Regex::new(&translation.text)?, before_last_line_end })
    }

    pub(super) fn regex(&self) -> &Regex {
        &self.regex
    }

    /// The text without its last line end, where an end of the text stands before that, too.
    fn shorter<'t>(&self, text: &'t str) -> Option<&'t str> {
        if self.before_last_line_end { without_line_end(text) } else { None }
    }

    /// The text in which to look for the next match from `at` on: the shorter one where that has an earlier match.
    fn subject<'t>(&self, text: &'t str, at: usize) -> &'t str {
        let Some(shorter) = self.shorter(text).filter(|shorter| at <= shorter.len()) else { return text };
        match (self.regex.find_at(shorter, at), self.regex.find_at(text, at)) {
            (Some(before), Some(after)) if before.start() < after.start() => shorter,
            (Some(_), None) => shorter,
            _ => text,
        }
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text) || self.shorter(text).is_some_and(|shorter| self.regex.is_match(shorter))
    }

    pub(super) fn find<'t>(&self, text: &'t str) -> Option<Match<'t>> {
        self.regex.find(self.subject(text, 0))
    }

    pub(super) fn captures<'t>(&self, text: &'t str) -> Option<Captures<'t>> {
        self.regex.captures(self.subject(text, 0))
    }

    /// All matches. As in Java, an empty one may follow right behind another.
    pub(super) fn matches<'t>(&self, text: &'t str) -> impl Iterator<Item = Match<'t>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let found = (at <= text.len()).then(|| self.regex.find_at(self.subject(text, at), at))??;
            at = next_start(text, found.range());
            Some(found)
        })
    }

    /// All matches with their groups.
    pub(super) fn all_captures<'t>(&self, text: &'t str) -> impl Iterator<Item = Captures<'t>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let found = (at <= text.len()).then(|| self.regex.captures_at(self.subject(text, at), at))??;
            at = next_start(text, found.get(0)?.range());
            Some(found)
        })
    }

    pub(super) fn replace_all<'t>(&self, text: &'t str, replacement: &str) -> Cow<'t, str> {
        let (mut out, mut copied, mut found_any) = (String::new(), 0, false);
        for found in self.matches(text) {
            out.push_str(&text[copied..found.start()]);
            out.push_str(replacement);
            (copied, found_any) = (found.end(), true);
        }
        if !found_any {
            return Cow::Borrowed(text);
        }
        out.push_str(&text[copied..]);
        Cow::Owned(out)
    }
}

/// Where the search goes on behind a match: a character further if it was empty.
fn next_start(text: &str, found: Range<usize>) -> usize {
    match found.is_empty() {
        true => found.end + text[found.end..].chars().next().map_or(1, char::len_utf8),
        false => found.end,
    }
}

/// A pattern for the `regex` crate.
#[derive(Debug, PartialEq)]
pub(super) struct Translation {
    pub text: String,
    /// Whether an end of the text in it also stands before a line end that is the last thing of the text.
    pub before_last_line_end: bool,
}

/// What ends a line in Java.
const LINE_ENDS: &str = r"\n\r\x{85}\x{2028}\x{2029}";
const VERTICAL: &str = r"\n\x0B\f\r\x{85}\x{2028}\x{2029}";
const HORIZONTAL: &str = r"\x20\t\x{a0}\x{1680}\x{180e}\x{2000}-\x{200a}\x{202f}\x{205f}\x{3000}";
const SPACE: &str = r"\x20\t\n\x0B\f\r";
const WORD: &str = "a-zA-Z_0-9";
const SIGNS: &str = r"!-/:-@\[-`\{-\x{7e}";

/// The text without the line end that it ends with, if it does.
fn without_line_end(text: &str) -> Option<&str> {
    text.strip_suffix("\r\n").or_else(|| text.strip_suffix(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']))
}

/// The flags that change how what follows is read.
#[derive(Clone, Copy, Default)]
struct Flags {
    dot_takes_all: bool,
    lines: bool,
    comments: bool,
}

/// Reads a pattern of Java's; the error names what has no form here.
pub(super) fn from_java(pattern: &str) -> Result<Translation, &'static str> {
    let mut reader = Reader {
        chars: pattern.chars().peekable(),
        out: String::with_capacity(pattern.len()),
        before_last_line_end: false,
        flags: Flags::default(),
        outside: vec![],
        class: 0,
        quantified: false,
    };
    reader.read()?;
    Ok(Translation { text: reader.out, before_last_line_end: reader.before_last_line_end })
}

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    out: String,
    before_last_line_end: bool,
    flags: Flags,
    /// The flags outside of each group that is open.
    outside: Vec<Flags>,
    /// How many brackets are open.
    class: usize,
    /// Whether a quantifier has just been read, so that `+` makes it possessive and `?` lazy.
    quantified: bool,
}

impl Reader<'_> {
    fn read(&mut self) -> Result<(), &'static str> {
        while let Some(c) = self.chars.next() {
            let after_quantifier = std::mem::take(&mut self.quantified);
            match c {
                '\\' => self.escape(),
                '[' => self.open_class(),
                ']' if self.class > 0 => {
                    self.class -= 1;
                    self.out.push(']');
                }
                // The crate's operator for sets that differ.
                '~' if self.class > 0 => self.out.push_str(r"\~"),
                c if self.class > 0 => self.out.push(c),
                '+' if after_quantifier => {}
                '?' if after_quantifier => self.out.push('?'),
                '*' | '+' | '?' => {
                    self.quantified = true;
                    self.out.push(c);
                }
                '{' => self.counted(),
                '(' => self.open_group()?,
                ')' => {
                    self.flags = self.outside.pop().unwrap_or(self.flags);
                    self.out.push(')');
                }
                '.' if !self.flags.dot_takes_all => self.set(true, LINE_ENDS),
                '$' if !self.flags.lines => self.end(),
                '#' if self.flags.comments => while self.chars.next().is_some_and(|c| c != '\n') {},
                c => self.out.push(c),
            }
        }
        Ok(())
    }

    fn set(&mut self, negated: bool, items: &str) {
        self.out.push_str(if negated { "[^" } else { "[" });
        self.out.push_str(items);
        self.out.push(']');
    }

    fn end(&mut self) {
        self.before_last_line_end = true;
        self.out.push_str(r"\z");
    }

    fn code(&mut self, code: u32) {
        self.out.push_str(&format!(r"\x{{{code:x}}}"));
    }

    /// `[`, `[^`, and the `]` that stands for itself behind them.
    fn open_class(&mut self) {
        self.class += 1;
        self.out.push('[');
        if self.chars.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        if self.chars.next_if_eq(&']').is_some() {
            self.out.push_str(r"\]");
        }
    }

    /// `{2}`, `{2,}`, `{2,3}`; other braces are left to the crate.
    fn counted(&mut self) {
        self.out.push('{');
        let rest: String = self.chars.clone().take_while(|c| c.is_ascii_digit() || *c == ',').collect();
        let (least, most) = rest.split_once(',').unwrap_or((&rest, ""));
        if least.is_empty() || most.contains(',') || self.chars.clone().nth(rest.len()) != Some('}') {
            return;
        }
        self.out.push_str(&rest);
        self.out.push('}');
        self.chars.nth(rest.len());
        self.quantified = true;
    }

    /// `(`, `(?:`, `(?<name>`, and flags: `(?i)`, `(?i-m:`.
    fn open_group(&mut self) -> Result<(), &'static str> {
        let inner = self.flags;
        if self.chars.next_if_eq(&'?').is_none() {
            self.outside.push(inner);
            self.out.push('(');
            return Ok(());
        }
        match self.chars.peek() {
            Some('>') => return Err("an atomic group, (?>…)"),
            Some(':' | '=' | '!' | '<') | None => {
                self.outside.push(inner);
                self.out.push_str("(?");
                return Ok(());
            }
            _ => {}
        }
        let (mut flags, mut on, mut names) = (self.flags, true, String::new());
        while let Some(flag) = self.chars.next_if(|c| c.is_ascii_alphabetic() || *c == '-') {
            match flag {
                'U' => return Err("the flag (?U)"),
                'd' => return Err("the flag (?d)"),
                // Letters of all scripts have their cases here without it.
                'u' => continue,
                '-' => on = false,
                's' => flags.dot_takes_all = on,
                'm' => flags.lines = on,
                'x' => flags.comments = on,
                _ => {}
            }
            names.push(flag);
            if flag == 'm' {
                names.push('R');
            }
        }
        match (self.chars.next(), names.trim_end_matches('-')) {
            // The flags hold to the end of the group that they stand in.
            (Some(')'), "") => {}
            (Some(')'), names) => self.out.push_str(&format!("(?{names})")),
            (end, names) => {
                self.outside.push(inner);
                self.out.push_str(&format!("(?{names}"));
                self.out.extend(end);
            }
        }
        self.flags = flags;
        Ok(())
    }

    fn escape(&mut self) {
        let Some(c) = self.chars.next() else { return self.out.push('\\') };
        match c {
            'd' | 'D' => self.set(c == 'D', "0-9"),
            'w' | 'W' => self.set(c == 'W', WORD),
            's' | 'S' => self.set(c == 'S', SPACE),
            'h' | 'H' => self.set(c == 'H', HORIZONTAL),
            'v' | 'V' => self.set(c == 'V', VERTICAL),
            'R' => self.out.push_str(&format!(r"(?:\r\n|[{VERTICAL}])")),
            'Z' => self.end(),
            'e' => self.code(0x1b),
            '0' => self.octal(),
            'c' => match self.chars.next() {
                Some(letter) => self.code(u32::from(letter) ^ 64),
                None => self.out.push_str(r"\c"),
            },
            'p' | 'P' => self.property(c == 'P'),
            'x' => {
                self.out.push_str(r"\x");
                // A code in braces is no count.
                if self.chars.peek() == Some(&'{') {
                    self.braced();
                }
            }
            'Q' => self.quoted(),
            c if c.is_ascii_alphanumeric() => self.out.extend(['\\', c]),
            // A sign stands for itself; some have another meaning with a backslash in the crate.
            c if c.is_ascii_punctuation() => self.out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            c => self.code(u32::from(c)),
        }
    }

    /// `{…}` as it stands.
    fn braced(&mut self) {
        for c in self.chars.by_ref() {
            self.out.push(c);
            if c == '}' {
                return;
            }
        }
    }

    /// Up to three digits of eight, of at most `\0377`.
    fn octal(&mut self) {
        let (mut code, mut digits) = (0, 0);
        while let Some(digit) = self.chars.peek().and_then(|c| c.to_digit(8))
            && digits < 3
            && code * 8 + digit <= 0o377
        {
            self.chars.next();
            (code, digits) = (code * 8 + digit, digits + 1);
        }
        if digits == 0 { self.out.push_str(r"\0") } else { self.code(code) }
    }

    fn quoted(&mut self) {
        while let Some(c) = self.chars.next() {
            if c == '\\' && self.chars.next_if_eq(&'E').is_some() {
                return;
            }
            self.out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
        }
    }

    /// `\p{Name}`: the classes of POSIX are of ASCII in Java, and of Unicode or unknown in the crate.
    fn property(&mut self, negated: bool) {
        let letter = if negated { 'P' } else { 'p' };
        if self.chars.next_if_eq(&'{').is_none() {
            self.out.extend(['\\', letter]);
            self.out.extend(self.chars.next());
            return;
        }
        let mut name = String::new();
        while let Some(c) = self.chars.next_if(|c| *c != '}') {
            name.push(c);
        }
        let closed = self.chars.next();
        match name.as_str() {
            "Lower" => self.set(negated, "a-z"),
            "Upper" => self.set(negated, "A-Z"),
            "ASCII" => self.set(negated, r"\x00-\x7f"),
            "Alpha" => self.set(negated, "a-zA-Z"),
            "Digit" => self.set(negated, "0-9"),
            "Alnum" => self.set(negated, "a-zA-Z0-9"),
            "Punct" => self.set(negated, SIGNS),
            "Graph" => self.set(negated, "!-~"),
            "Print" => self.set(negated, r"\x20-~"),
            "Blank" => self.set(negated, r"\x20\t"),
            "Cntrl" => self.set(negated, r"\x00-\x1f\x7f"),
            "XDigit" => self.set(negated, "0-9a-fA-F"),
            "Space" => self.set(negated, SPACE),
            _ => {
                self.out.push_str(&format!(r"\{letter}{{{name}"));
                self.out.extend(closed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pattern: &str) -> String {
        from_java(pattern).expect("a pattern").text
    }

    #[test]
    fn only_a_quantifier_is_possessive() {
        assert_eq!(text(r"a*+b++c?+d{2}+e{2,}+f{2,3}+"), r"a*b+c?d{2}e{2,}f{2,3}");
        assert_eq!(text(r"\p{L}+\}+\x{41}+\x41+\++\*+}+"), r"\p{L}+\}+\x{41}+\x41+\++\*+}+");
        assert_eq!(text(r"a+?+"), "a+?+");
        assert_eq!(text(r"[+*]+\Q}\E+"), r"[+*]+\}+");
    }

    #[test]
    fn flags_hold_to_the_end_of_their_group() {
        assert_eq!(text("(?s).(?-s:.)."), r"(?s).(?-s:[^\n\r\x{85}\x{2028}\x{2029}]).");
        assert_eq!(text("((?s).)."), r"((?s).)[^\n\r\x{85}\x{2028}\x{2029}]");
        assert_eq!(text("(?m)a$"), "(?mR)a$");
        assert_eq!(text("(?u)a(?u:b)"), "a(?:b)");
        assert!(from_java("(?m)a$|b").is_ok_and(|found| !found.before_last_line_end));
        assert!(from_java("(?m:a)b$").is_ok_and(|found| found.before_last_line_end));
        assert!(from_java("[$]").is_ok_and(|found| !found.before_last_line_end));
    }

    #[test]
    fn what_has_no_form_is_named() {
        assert_eq!(from_java("(?>a)b"), Err("an atomic group, (?>…)"));
        assert_eq!(from_java("(?U)a"), Err("the flag (?U)"));
    }

    #[test]
    fn line_ends_are_javas() {
        for (text, rest) in [("a\n", Some("a")), ("a\r\n", Some("a")), ("a\n\n", Some("a\n")), ("a", None), ("", None)]
        {
            assert_eq!(without_line_end(text), rest);
        }
    }
}
