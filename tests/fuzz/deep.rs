//! SQL that is deep or long: it is planned or refused by the program itself, which a full stack would kill without a word.

#![expect(clippy::disallowed_methods, reason = "another process is given its time")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the program may have of addresses, in MiB: half of it would do on a machine of two cores, and each further one has a stack of
/// 8 MiB and an arena. The largest text has 2 MB.
const MOST_MIB: u64 = 2_048;
const LONGEST: Duration = Duration::from_secs(120);

const HEAD: &str = "CREATE TABLE t (a BIGINT, b STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
WITH ('connector' = 'datagen', 'number-of-rows' = '1');
CREATE TABLE o (a BIGINT) WITH ('connector' = 'blackhole');\n";

fn nested(open: &str, inner: &str, close: &str, depth: usize) -> String {
    format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
}

#[test]
fn deep_and_long_texts_are_planned_or_refused() {
    let insert = |expression: String| format!("{HEAD}INSERT INTO o SELECT {expression} FROM t;");
    let chain = |term: &str, operator: &str, count: usize| vec![term; count].join(operator);
    // What is just within the bounds must be planned, and run.
    let fits = ["sum that fits", "conditions that fit", "unions that fit", "views that fit", "list"];
    let view = |n: usize| {
        let from = if n == 0 { "t".to_owned() } else { format!("v{}", n - 1) };
        format!("CREATE VIEW v{n} AS SELECT a FROM {from};\n")
    };
    let views = |count: usize| {
        format!("{HEAD}{}INSERT INTO o SELECT a FROM v{};", (0..count).map(view).collect::<String>(), count - 1)
    };
    let twice = |n: usize| format!("CREATE VIEW v{n} AS SELECT a FROM v{0} UNION ALL SELECT a FROM v{0};\n", n - 1);
    let cases = [
        (fits[0], insert(chain("a", " + ", 499))),
        (fits[1], format!("{HEAD}INSERT INTO o SELECT a FROM t WHERE {};", chain("a = 1 AND b = 'x'", " OR ", 120))),
        (fits[2], format!("{HEAD}INSERT INTO o {};", chain("SELECT a FROM t", " UNION ALL ", 120))),
        (fits[3], views(80)),
        ("parentheses", insert(nested("(", "a", ")", 20_000))),
        ("minus", insert(format!("{}a", "- ".repeat(20_000)))),
        ("not", insert(format!("CASE WHEN {} a = 1 THEN 1 END", "NOT ".repeat(20_000)))),
        ("sum", insert(chain("a", " + ", 20_000))),
        ("and", insert(format!("CASE WHEN {} THEN 1 END", chain("a = 1", " AND ", 10_000)))),
        ("concatenation", insert(format!("CHAR_LENGTH({})", chain("b", " || ", 10_000)))),
        ("case", insert(nested("CASE WHEN a = 1 THEN ", "a", " END", 5_000))),
        ("functions", insert(nested("ABS(", "a", ")", 5_000))),
        ("casts", insert(nested("CAST(", "a", " AS BIGINT)", 5_000))),
        ("subqueries", format!("{HEAD}INSERT INTO o SELECT a FROM {};", nested("(SELECT a FROM ", "t", ")", 3_000))),
        ("unions", format!("{HEAD}INSERT INTO o {};", chain("SELECT a FROM t", " UNION ALL ", 1_500))),
        ("rows", format!("CREATE TABLE n (a {}) WITH ('connector' = 'print');", nested("ROW<x ", "INT", ">", 5_000))),
        ("arrays", format!("CREATE TABLE n (a {}) WITH ('connector' = 'print');", nested("ARRAY<", "INT", ">", 5_000))),
        ("list", insert(format!("CASE WHEN a IN ({}) THEN 1 END", chain("1", ", ", 50_000)))),
        ("views", views(3_000)),
        (
            "views of views",
            format!("{HEAD}{}{}INSERT INTO o SELECT a FROM v39;", view(0), (1..40).map(twice).collect::<String>()),
        ),
        ("string", insert(format!("CHAR_LENGTH('{}')", "x".repeat(2_000_000)))),
        ("quotes", format!("{HEAD}{}", "'".repeat(200_001))),
        ("parameters", format!("{HEAD}{}", "${A:-1} ".repeat(50_000))),
        ("comments", format!("{HEAD}{}", "/* ".repeat(100_000))),
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut problems = Vec::new();
    for (name, text) in cases {
        let path = folder.path().join(format!("{name}.sql"));
        std::fs::write(&path, text).unwrap();
        problems.extend(ended(name, &["check", path.to_str().unwrap()], fits.contains(&name)));
        if fits.contains(&name) {
            problems.extend(ended(name, &["run", path.to_str().unwrap(), "--drain"], true));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// What is wrong with how the program ends.
fn ended(name: &str, arguments: &[&str], must_succeed: bool) -> Option<String> {
    let said = tempfile::NamedTempFile::new().unwrap();
    let mut child = Command::new("sh")
        .args(["-c", r#"ulimit -v "$0" && exec "$@""#, &(MOST_MIB << 10).to_string(), env!("CARGO_BIN_EXE_tidemill")])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.reopen().unwrap())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if began.elapsed() > LONGEST {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let said = std::fs::read_to_string(said.path()).unwrap();
    let first: String = said.lines().next().unwrap_or_default().chars().take(150).collect();
    let seconds = began.elapsed().as_secs_f64();
    println!("{} {name}: {:?} after {seconds:.1} s: {first}", arguments[0], status.and_then(|s| s.code()));
    match status.map(|status| status.code()) {
        Some(Some(0)) => None,
        Some(Some(1)) if !must_succeed && !said.contains("panicked") => None,
        Some(code) => Some(format!("{} {name}: ends with {code:?}: {first}", arguments[0])),
        None => Some(format!("{} {name}: hangs", arguments[0])),
    }
}
