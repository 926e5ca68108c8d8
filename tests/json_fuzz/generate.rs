//! Records for the fuzz test: events as they come, every corner of JSON's syntax, and mutations of both.

/// SplitMix64: small, and the same on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, choices: &[&'a T]) -> &'a T
    where
        T: ?Sized + 'a,
    {
        choices[self.below(choices.len())]
    }
}

#[rustfmt::skip]
const KEYS: &[&str] = &[
    "event_id", "event_type", "timestamp", "data", "u", "b", "i8", "i16", "i32", "i64", "f32", "f64", "dec", "date", "time", "nanos", "bin", "list",
    "rows", "tags", "nums", "strict", "q\\\"uote", "ключ", "a_key_that_is_longer_than_one_step_of_the_walk", "unknown", "другой", "x", "", "event",
    "\\u0064ata", "\\u0069\\u0036\\u0034", "event_typ\\u0065",
];

#[rustfmt::skip]
const NUMBERS: &[&str] = &[
    "0", "-0", "1", "-1", "7", "42", "127", "128", "-128", "-129", "32767", "32768", "2147483647", "-2147483649", "9223372036854775807", "9223372036854775808",
    "-9223372036854775808", "1.0", "1.5", "1e2", "1E+2", "1e-2", "12.345", "12.335", "-0.005", "0.004999999999", "517.23", "9999999999.99", "9999999999.995",
    "1e999999999", "-1e999999999", "1e-999999999", "0e999999999999999999999", "123456789012345678901234567890123456789012345678901234567890", "0.1", "0.3",
    "2.2250738585072011e-308", "1.7976931348623157e308", "1.7976931348623159e308", "16777217", "3.4028236e38", "9007199254740993", "100000000000000000000000.5",
    "0.000000000000000000000000000000000000000000000000000000000000123", "1234567890123456789.12345678905", "12345678901234567890123456789e-20",
    // Not numbers.
    "01", "-", "1.", ".5", "1e", "+1", "1e+", "NaN", "Infinity", "0x10", "1_000", "--1", "- 1", "1.e3", "00",
];

#[rustfmt::skip]
const STRINGS: &[&str] = &[
    "", "a", "page_view", "purchase", "error", "user-000055", "/shop/page-0486.html", "https://www.google.com/", "433b766b-e6c9-915f-0000-000000000000",
    "exactly 12 b", "thirteen byte", "a text of just 32 bytes, no more", "a longer text, which goes over more than one step of thirty-two bytes", "true", "FALSE",
    "12", " 12.5 ", "free", "-7", "1e2", "+5", "007", ".5", "NaN", "Infinity", "inf", "99999999999999999999", "12.345", "Zm9v", "Zm8=", "Zg=", "Zg==",
    "2026-02-12", "2026-02-30", "0000-01-01", "99999-01-01", "10:00", "10:00:00.123456", "24:00:00", "2026-02-12T10:00:00.000Z", "2026-02-12T10:00:00Z",
    "2026-02-12 10:00:00", "2026-02-12 10:00:59.999999999", "2026-02-12T10:00:60Z", "2026-02-12T10:00:00.5+02:00", "2026-02-12T23:59-1130", "1677-09-21T00:12:43Z",
    "2026-02-12T10:00", "é", "тест", "日本語のテキスト", "😀", "x😀yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy😀", "\\n", "\\u0041", "\\u00e9", "\\ud83d\\ude00", "tab\\there",
    "\\\\", "\\\"", "quote \\\" in a text that is longer than thirty-two bytes \\\\", "\\/", "\\u0000", "\\b\\f\\r\\t", "12\\u002e5", "tru\\u0065", "\\u0032026-02-12T10:00:00Z",
    // Not strings.
    "\\x", "\\ud800", "\\udc00", "\\ud800\\u0041", "\\u12", "\\u12G4", "\t", "\u{1f}", "\\", "\u{7f}", "\\ud83d", "\\uD83D\\uDE0",
];

#[rustfmt::skip]
const CORNERS: &[&str] = &[
    "", " ", "{}", " { } ", "[]", "null", "true", "12", "\"text\"", "{", "}", "{]", "{,}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{\"a\":1 \"b\":2}", "{\"a\":1}x", "{\"a\":1}}",
    "{'a':1}", "{a:1}", "{\"a\":tru}", "{\"a\":nul}", "{\"a\":[1,]}", "{\"a\":[,1]}", "{\"a\":[1 2]}", "{\"a\":[[[[]]]]}", "{\"a\":{\"b\":{\"c\":{}}}}", "\u{feff}{}", "{\"i64\":1}{\"i64\":2}",
    "{\"i64\":1,\"i64\":2}", "{\"i64\":\"free\",\"i64\":2}", "{\"i64\":1,\"i64\":null}", "{\"i64\":null,\"i64\":1}", "{\"data\":{\"page\":\"a\"},\"data\":{\"user_id\":\"b\"}}",
    "{\"data\":{\"page\":\"a\"},\"data\":null}", "{\"data\":5,\"data\":{}}", "{\"data\":{\"amount\":\"x\"},\"data\":{\"amount\":1}}", "{\"data\":{\"amount\":\"x\",\"amount\":1.005}}",
    "{\"rows\":[{\"v\":\"x\",\"v\":1}]}", "{\"rows\":[{\"v\":1},null,{}],\"rows\":[]}", "{\"rows\":[{\"v\":[]}]}", "{\"tags\":{\"a\":1,\"b\":\"2\",\"a\":3}}", "{\"tags\":{\"\\u0061\":1,\"a\":null}}",
    "{\"nums\":{\"a\":[\"x\"],\"a\":[1,null]}}", "{\"strict\":{}}", "{\"strict\":{\"must\":null}}", "{\"strict\":{\"must\":1,\"full\":[\"a\",null]}}", "{\"strict\":{\"must\":1,\"full\":[\"a\"]}}",
    "{\"strict\":{\"must\":\"x\",\"must\":1}}", "{\"list\":[1,2.5]}", "{\"list\":[1,2.0,null,\"3\"]}", "{\"list\":{}}", "{\"u\":{\"a\": [1, 2]} }", "{\"event_id\":[ 1 ]}",
    "{\"i64\"\n:\t1\r,\"b\" : true }", "{\"i64\":1}\u{0}", "{\"x\":\"\u{80}\"}",
];

/// A stream of records; remembers some of what it made, to splice.
pub(crate) struct Records {
    recent: Vec<Vec<u8>>,
}

impl Records {
    pub(crate) fn new() -> Self {
        Self { recent: vec![b"{}".to_vec(); 64] }
    }

    pub(crate) fn next(&mut self, random: &mut Random) -> Vec<u8> {
        let mut record = match random.below(16) {
            0 => random.pick(CORNERS).as_bytes().to_vec(),
            1 => nested(random),
            2..=6 => event(random),
            _ => {
                let mut out = Vec::new();
                object(random, &mut out, 3, true);
                out
            }
        };
        if random.one_in(3) {
            for _ in 0..=random.below(3) {
                self.mutate(random, &mut record);
            }
        }
        let slot = random.below(self.recent.len());
        self.recent[slot].clone_from(&record);
        record
    }

    fn mutate(&self, random: &mut Random, record: &mut Vec<u8>) {
        const PIECES: &[&str] = &[
            "\"",
            "\\",
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            " ",
            "\n",
            "0",
            "1",
            "-",
            ".",
            "e",
            "null",
            "true",
            "\\u",
            "\\ud800",
            "\u{0}",
            "é",
            "😀",
            "\"a\":",
            ",\"i64\":1",
            "{}",
            "[]",
            "\\\"",
        ];
        let at = random.below(record.len() + 1);
        let length = random.below(12).min(record.len() - at);
        match random.below(8) {
            0 => record.truncate(at),
            1 => drop(record.drain(at..at + length)),
            2 => {
                let piece = record[at..at + length].to_vec();
                let to = random.below(record.len() + 1);
                record.splice(to..to, piece);
            }
            3 => {
                let other = &self.recent[random.below(self.recent.len())];
                record.truncate(at);
                record.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            4 if at < record.len() => record[at] ^= 1 << random.below(8),
            5 if at < record.len() => record[at] = random.next() as u8,
            _ => {
                let piece = random.pick(PIECES).bytes();
                record.splice(at..at, piece);
            }
        }
    }
}

fn push(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn space(random: &mut Random, out: &mut Vec<u8>) {
    if random.one_in(12) {
        push(out, random.pick(&[" ", "\n", "\t", "\r\n  ", "                                          "]));
    }
}

fn string(random: &mut Random, out: &mut Vec<u8>) {
    // The bad ones stand at the end and are rare.
    let good = STRINGS.len() - 12;
    let index = if random.one_in(150) { good + random.below(12) } else { random.below(good) };
    out.push(b'"');
    push(out, STRINGS[index]);
    if random.one_in(4) {
        for _ in 0..random.below(40) {
            out.push(b'a' + random.below(26) as u8);
        }
    }
    out.push(b'"');
}

fn number(random: &mut Random, out: &mut Vec<u8>) {
    let good = NUMBERS.len() - 15;
    match random.below(8) {
        0 if random.one_in(40) => push(out, NUMBERS[good + random.below(15)]),
        0..4 => push(out, NUMBERS[random.below(good)]),
        4 => push(out, &random.below(1_000).to_string()),
        5 => push(out, &format!("{}.{:02}", random.below(10_000), random.below(100))),
        6 => push(out, &format!("{}{}", random.pick(&["", "-"]), random.next() >> random.below(64))),
        _ => push(
            out,
            &format!("{}.{}e{}", random.below(100), random.next() >> random.below(64), random.below(60) as i64 - 30),
        ),
    }
}

fn value(random: &mut Random, out: &mut Vec<u8>, depth: usize) {
    match random.below(if depth == 0 { 11 } else { 16 }) {
        0..5 => string(random, out),
        5..9 => number(random, out),
        9 => push(out, random.pick(&["true", "false"])),
        10 => push(out, "null"),
        11..14 => object(random, out, depth - 1, false),
        _ => {
            out.push(b'[');
            let items = random.below(4);
            for i in 0..items {
                if i > 0 {
                    out.push(b',');
                }
                space(random, out);
                value(random, out, depth - 1);
            }
            out.push(b']');
        }
    }
}

/// A value that often suits the key's column, so that many records are accepted.
fn value_for(random: &mut Random, out: &mut Vec<u8>, key: &str, depth: usize) {
    if random.one_in(20) {
        return value(random, out, depth);
    }
    let mut items = |random: &mut Random, open: &str, close: &str, make: &mut dyn FnMut(&mut Random, &mut Vec<u8>)| {
        push(out, open);
        for i in 0..random.below(4) {
            if i > 0 {
                out.push(b',');
            }
            space(random, out);
            make(random, out);
        }
        push(out, close);
    };
    match key {
        "timestamp" | "nanos" => push(
            out,
            random.pick(&[
                "\"2026-02-12T10:00:00.123Z\"",
                "\"2026-02-12T10:00:07.999Z\"",
                "\"2026-03-01 00:00:00\"",
                "\"1999-12-31T23:59:59+01:00\"",
                "null",
            ]),
        ),
        "b" => push(out, random.pick(&["true", "false", "\"True\"", "null"])),
        "i8" => push(out, random.pick(&["1", "-128", "127", "\"12\"", "1e1", "5.0"])),
        "i16" | "i32" | "i64" | "must" | "x" => push(out, &(random.below(60_000) as i64 - 30_000).to_string()),
        "f32" | "f64" | "amount" | "dec" | "v" => {
            push(out, &format!("{}.{}", random.below(100_000), random.below(100_000)))
        }
        "date" => push(out, "\"2024-02-29\""),
        "time" => push(out, "\"23:59:01.5\""),
        "bin" => push(out, random.pick(&["\"\"", "\"Zg==\"", "\"AAECAwQF\""])),
        "list" => {
            items(random, "[", "]", &mut |random, out| push(out, random.pick(&["1", "-7", "null", "\"3\"", "2e3"])))
        }
        "rows" => items(random, "[", "]", &mut |random, out| fields(random, out, &["k", "v", "z"], 1)),
        "full" => items(random, "[", "]", &mut |random, out| string(random, out)),
        "tags" => items(random, "{", "}", &mut |random, out| {
            push(
                out,
                random.pick(&["\"a\":", "\"b\" :", "\"\\u0061\": ", "\"a much longer key of a map, beyond a step\":"]),
            );
            string(random, out);
        }),
        "nums" => items(random, "{", "}", &mut |random, out| {
            push(out, random.pick(&["\"a\":", "\"b\":", "\"кк\":"]));
            push(out, random.pick(&["[]", "[1]", "[1,2,null]", "null"]));
        }),
        "data" => fields(random, out, &["user_id", "page", "amount", "deep", "other"], depth),
        "deep" => fields(random, out, &["x", "y", "z"], depth),
        "strict" => fields(random, out, &["must", "may", "full"], depth),
        "unknown" | "другой" | "" => value(random, out, depth),
        _ => string(random, out),
    }
}

fn fields(random: &mut Random, out: &mut Vec<u8>, names: &[&str], depth: usize) {
    out.push(b'{');
    let mut first = true;
    for name in names {
        for _ in 0..*random.pick(&[&1, &1, &1, &1, &1, &0, &0, &2]) {
            if !first {
                out.push(b',');
            }
            first = false;
            push(out, &format!("\"{name}\":"));
            space(random, out);
            value_for(random, out, name, depth);
        }
    }
    out.push(b'}');
}

fn object(random: &mut Random, out: &mut Vec<u8>, depth: usize, top: bool) {
    space(random, out);
    out.push(b'{');
    let count = random.below(if top { 8 } else { 5 });
    for i in 0..count {
        if i > 0 {
            out.push(b',');
        }
        space(random, out);
        let key = random.pick(KEYS);
        push(out, &format!("\"{key}\""));
        space(random, out);
        out.push(b':');
        space(random, out);
        value_for(random, out, key, depth);
        space(random, out);
    }
    out.push(b'}');
    space(random, out);
}

/// The shapes of `peers/generate.py`, their keys at times in another order.
fn event(random: &mut Random) -> Vec<u8> {
    let mut parts = vec![
        format!("\"event_id\":\"{:016x}-{:04x}-000000000000\"", random.next(), random.below(65_536)),
        format!("\"event_type\":\"{}\"", random.pick(&["page_view", "purchase", "error"])),
        format!(
            "\"timestamp\":\"2026-02-{:02}T{:02}:00:{:02}.{:03}Z\"",
            1 + random.below(28),
            random.below(24),
            random.below(60),
            random.below(1_000)
        ),
    ];
    let user = random.below(100_000);
    parts.push(match random.below(3) {
        0 => format!("\"data\":{{\"user_id\":\"user-{user:06}\",\"page\":\"/shop/page-{:04}.html\",\"referrer\":\"direct\",\"device\":\"mobile\"}}", random.below(1_000)),
        1 => format!("\"data\":{{\"user_id\":\"user-{user:06}\",\"product_id\":\"product-{:05}\",\"amount\":{}.{:02},\"currency\":\"USD\"}}", user % 5_000, random.below(900), random.below(100)),
        _ => format!("\"data\":{{\"error_code\":\"{}\",\"message\":\"bad request: field is missing (host-{:02}, request {user:x})\"}}", 400 + random.below(100), random.below(50)),
    });
    if random.one_in(10) {
        let (a, b) = (random.below(4), random.below(4));
        parts.swap(a, b);
    }
    if random.one_in(10) {
        parts.push("\"extra\":{\"nested\":[1,2,{\"timestamp\":\"no\"}],\"more\":null}".to_string());
    }
    let comma = if random.one_in(8) { ", " } else { "," };
    format!("{{{}}}", parts.join(comma)).into_bytes()
}

/// Nesting around the limit of 128, of wanted and of unwanted things.
fn nested(random: &mut Random) -> Vec<u8> {
    let levels = 120 + random.below(12);
    let open = random.pick(&["[", "{\"a\":", "{\"data\":", "{\"deep\":"]);
    let close = if open == "[" { "]" } else { "}" };
    let key = random.pick(&["unknown", "data", "rows", "tags", "event_id", "list"]);
    let levels = if random.one_in(50) { 10_000 } else { levels };
    format!("{{\"{key}\":{}1{}}}", open.repeat(levels), close.repeat(levels)).into_bytes()
}
