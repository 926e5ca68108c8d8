//! SQL: the shipped queries and all goldens, with words exchanged, doubled and lost. The whole front end runs: text, parameters,
//! hints, tokens, statements, catalog, planning. It answers with a plan or with errors; it never panics, and never takes long.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use tidemill::sql::{Parameters, PlanOptions, SqlText, plan_job};

use crate::MOST_MIB;
use crate::bounded::{Bound, within};
use crate::change::{Change, change, changed, check};

/// A plan takes some milliseconds; this is a hang.
const LONGEST: Duration = Duration::from_secs(60);
/// Longer texts are not made: what is wanted is variety.
const LONGEST_TEXT: usize = 20_000;

/// What happens to the words of a text.
#[derive(Debug, Clone)]
enum Edit {
    Remove {
        at: Index,
        count: usize,
    },
    Double {
        at: Index,
        count: usize,
    },
    /// Two words (no spaces, no signs) change places.
    Exchange {
        one: Index,
        other: Index,
    },
    /// A word becomes another one of the same text: it may be a table's name where a column's was.
    Rename {
        at: Index,
        from: Index,
    },
    /// Words of another text of the corpus.
    Take {
        from: Index,
        count: usize,
        at: Index,
    },
    Word {
        at: Index,
        word: &'static str,
    },
    Bytes(Change),
}

/// Words that mean something to some part of the front end, and characters that have tripped parsers before.
const WORDS: [&str; 88] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "HAVING",
    "ORDER BY",
    "LIMIT",
    "OVER",
    "PARTITION BY",
    "WITH",
    "AS",
    "UNION ALL",
    "INTERSECT",
    "EXCEPT",
    "JOIN",
    "LEFT JOIN",
    "FULL OUTER JOIN",
    "LATERAL",
    "FOR SYSTEM_TIME AS OF",
    "TABLE",
    "TUMBLE",
    "HOP",
    "CUMULATE",
    "SESSION",
    "DESCRIPTOR",
    "INTERVAL '1' MINUTE",
    "INTERVAL '-5' SECOND",
    "INTERVAL '99999999999' DAY",
    "NULL",
    "TRUE",
    "NOT",
    "CAST(",
    "TRY_CAST(",
    "CASE WHEN",
    "END",
    "EXISTS (",
    "IN (",
    "COUNT(*)",
    "COUNT(DISTINCT",
    "SUM(",
    "AVG(",
    "MAX(",
    "LAST_VALUE(",
    "ROW_NUMBER()",
    "GROUPING SETS (",
    "CUBE (",
    "REQUIRE(",
    "JSON_OBJECT(KEY 'a' VALUE",
    "PROCTIME()",
    "NOW()",
    "CREATE TABLE",
    "CREATE VIEW",
    "INSERT INTO",
    "VALUES",
    "SET 'a' = 'b';",
    "EXECUTE STATEMENT SET BEGIN",
    "PRIMARY KEY",
    "NOT ENFORCED",
    "WATERMARK FOR",
    "METADATA FROM",
    "VIRTUAL",
    "ROW<",
    "ARRAY<",
    "MAP<",
    ">>",
    "DECIMAL(38, 18)",
    "DECIMAL(99, -1)",
    "TIMESTAMP_LTZ(3)",
    "VARCHAR(0)",
    "(",
    ")",
    ",",
    ";",
    ".",
    "'",
    "`",
    "\"",
    "/*+ OPTIONS('a'='b') */",
    "/*",
    "--",
    "${A:-1}",
    "${B}",
    "${ü:-'x'}",
    "9223372036854775808",
    "1e400",
    "0x",
    "\u{0}",
    "é\u{301}🦀",
];

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        3 => (at(), 1..6_usize).prop_map(|(at, count)| Edit::Remove { at, count }),
        2 => (at(), 1..12_usize).prop_map(|(at, count)| Edit::Double { at, count }),
        4 => (at(), at()).prop_map(|(one, other)| Edit::Exchange { one, other }),
        8 => (at(), at()).prop_map(|(at, from)| Edit::Rename { at, from }),
        4 => (at(), 1..15_usize, at()).prop_map(|(from, count, at)| Edit::Take { from, count, at }),
        4 => (at(), prop::sample::select(WORDS.to_vec())).prop_map(|(at, word)| Edit::Word { at, word }),
        2 => change().prop_map(Edit::Bytes),
    ]
}

/// Words, spaces and single signs, so that each can be moved alone; together they are the text.
fn words(text: &str) -> Vec<String> {
    let kind = |c: char| {
        if c.is_alphanumeric() || c == '_' {
            0
        } else if c.is_whitespace() {
            1
        } else {
            2
        }
    };
    let mut words: Vec<String> = Vec::new();
    let mut last = 3;
    for c in text.chars() {
        match words.last_mut() {
            Some(word) if kind(c) == last && last != 2 => word.push(c),
            _ => words.push(c.to_string()),
        }
        last = kind(c);
    }
    words
}

fn edited(text: &str, edits: &[Edit], corpus: &[Vec<String>]) -> String {
    let mut own = words(text);
    for edit in edits {
        if own.is_empty() {
            own.push(String::new());
        }
        let length = own.len();
        let names: Vec<usize> = (0..length).filter(|at| own[*at].starts_with(|c: char| c.is_alphanumeric())).collect();
        match edit {
            Edit::Remove { at, count } => {
                let at = at.index(length);
                own.drain(at..(at + count).min(length));
            }
            Edit::Double { at, count } => {
                let at = at.index(length);
                let stretch = own[at..(at + count).min(length)].to_vec();
                own.splice(at..at, stretch);
            }
            Edit::Exchange { .. } | Edit::Rename { .. } if names.is_empty() => {}
            Edit::Exchange { one, other } => own.swap(names[one.index(names.len())], names[other.index(names.len())]),
            Edit::Rename { at, from } => {
                own[names[at.index(names.len())]] = own[names[from.index(names.len())]].clone()
            }
            Edit::Take { from, count, at } => {
                let all: usize = corpus.iter().map(Vec::len).sum();
                let mut place = from.index(all);
                let other = corpus.iter().find(|words| {
                    let here = place < words.len();
                    place -= if here { 0 } else { words.len() };
                    here
                });
                let other = other.unwrap();
                let at = at.index(length);
                own.splice(at..at, other[place..(place + count).min(other.len())].iter().cloned());
            }
            Edit::Word { at, word } => own.insert(at.index(length), format!(" {word} ")),
            Edit::Bytes(change) => {
                let text = changed(own.concat().as_bytes(), std::slice::from_ref(change));
                own = words(&String::from_utf8_lossy(&text));
            }
        }
    }
    let mut text = own.concat();
    let end = (0..=LONGEST_TEXT.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
    text.truncate(end);
    text
}

/// Each golden, and the shipped job as one text.
fn corpus() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |folder: &str| -> Vec<String> {
        let mut paths: Vec<_> = std::fs::read_dir(root.join(folder)).unwrap().map(|e| e.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "sql"));
        paths.sort();
        paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
    };
    let (shipped, mut all) = (read("queries"), read("tests/golden"));
    all.extend(read("tests/errors"));
    all.push(shipped.concat());
    all.extend(shipped);
    assert!(all.len() > 100, "{} texts", all.len());
    all
}

#[test]
fn any_text_is_planned_or_explained() {
    let bound = within!(MOST_MIB);
    let corpus = corpus();
    let by_word: Vec<Vec<String>> = corpus.iter().map(|text| words(text)).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let values = prop::sample::select(vec!["", "1", "TRUE", "NULL", "1.2.3", "x' OR '1'='1", "é", "${A}", "\n;", "-"]);
    let cases = (any::<Index>(), prop::collection::vec(edit(), 0..5), values);
    let (planned, refused) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    check(&bound, 400, 4, cases, |(which, edits, value)| {
        let text = edited(&corpus[which.index(corpus.len())], &edits, &by_word);
        bound.note(&text);
        let parameters = ["A", "B", "NAME"].map(|name| (name.to_owned(), value.to_owned())).into_iter();
        let folders = ["IN", "OUT"].map(|name| (name.to_owned(), "folder".to_owned()));
        let parameters = parameters.chain(folders).collect();
        let parameters = Parameters::new(parameters, Default::default());
        let options = PlanOptions { partitions: 1, batch: false, pruned: true, epoch_time_ms: Arc::default() };
        let file = Arc::new(SqlText::new("a.sql", text));
        let planning = {
            let file = Arc::clone(&file);
            async move { plan_job(&[file], &parameters, &options, None).await.map(|_| ()) }
        };
        let outcome = runtime.block_on(async { tokio::time::timeout(LONGEST, tokio::spawn(planning)).await });
        match outcome {
            Err(_) => prop_assert!(false, "hangs:\n{}", file.text()),
            Ok(Err(panic)) => prop_assert!(false, "{}:\n{}", panic, file.text()),
            Ok(Ok(Ok(()))) => planned.set(planned.get() + 1),
            Ok(Ok(Err(errors))) => {
                refused.set(refused.get() + 1);
                prop_assert!(!errors.is_empty());
            }
        }
        Ok(())
    });
    println!("{} planned, {} refused", planned.get(), refused.get());
    assert!(planned.get() > 20 && refused.get() > 20, "{} planned, {} refused", planned.get(), refused.get());
}
