//! A backfill over the archive that a run wrote gives the tables of that run: the batch plan and the stream
//! are one query.

use std::path::Path;
use std::process::Command;

use rusqlite::Connection;

fn tidemill(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tidemill")).args(arguments).output().expect("the program runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "tidemill {arguments:?}\n{out}\n{err}");
    out.into_owned()
}

/// All rows of all tables, as text in a fixed order; attributes that an item lacks are left out.
fn tables(local: &Path) -> Vec<String> {
    let database = Connection::open(local.join("dynamodb.sqlite")).expect("results");
    let names = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name";
    let mut names = database.prepare(names).expect("a query");
    let names: Vec<String> =
        names.query_map([], |row| row.get(0)).expect("names").map(|name| name.expect("a name")).collect();
    let mut lines = Vec::new();
    for table in names {
        let mut rows = database.prepare(&format!("SELECT * FROM \"{table}\"")).expect("a table");
        let columns: Vec<String> = rows.column_names().map(str::to_owned).collect();
        let shown = rows.query_map([], |row| {
            let mut cells = Vec::new();
            for (index, column) in columns.iter().enumerate() {
                let value: rusqlite::types::Value = row.get(index)?;
                if value != rusqlite::types::Value::Null {
                    cells.push(format!("{column}={value:?}"));
                }
            }
            cells.sort();
            Ok(format!("{table}: {}", cells.join(", ")))
        });
        lines.extend(shown.expect("rows").map(|row| row.expect("a row")));
    }
    lines.sort();
    lines
}

#[test]
fn a_backfill_gives_the_tables_of_the_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let queries = root.join("queries");
    let queries = queries.to_str().expect("a path in UTF-8");
    // `edge` has rows that were late when they came: they must be left out again.
    for inputs in [vec!["weblog.jsonl"], vec!["shop.jsonl"], vec!["edge/shard-0.jsonl", "edge/shard-1.jsonl"]] {
        let folder = tempfile::tempdir().expect("a folder");
        let (live, again) = (folder.path().join("live"), folder.path().join("again"));
        let stream = live.join("kinesis/analytics-events");
        std::fs::create_dir_all(&stream).expect("a stream");
        for input in &inputs {
            let name = Path::new(input).file_name().expect("a name");
            std::fs::copy(root.join("tests/data").join(input), stream.join(name)).expect("events");
        }
        tidemill(&["run", queries, "--local", live.to_str().expect("UTF-8"), "--drain"]);
        let archive = live.join("s3/my-analytics-archive/events");
        let (archive, local) = (archive.to_str().expect("UTF-8"), again.to_str().expect("UTF-8"));
        let said = tidemill(&["backfill", queries, "--from", archive, "--local", local]);
        assert!(said.contains("alerts are not sent again"), "{said}");
        assert!(!again.join("sns").exists(), "alerts were sent again");
        let (live, again) = (tables(&live), tables(&again));
        assert!(live.len() > 100, "{inputs:?} gave {} rows only", live.len());
        let missing: Vec<_> = live.iter().filter(|row| !again.contains(row)).take(3).collect();
        let extra: Vec<_> = again.iter().filter(|row| !live.contains(row)).take(3).collect();
        assert_eq!(live.len(), again.len(), "{inputs:?}: only live {missing:#?}, only backfill {extra:#?}");
        assert!(missing.is_empty() && extra.is_empty(), "{inputs:?}: only live {missing:#?}, only backfill {extra:#?}");
    }
}
