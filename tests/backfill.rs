//! A backfill over the archive that a run wrote gives the tables of that run: the batch plan and the stream
//! are one query.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rusqlite::Connection;

fn ran(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidemill")).args(arguments).output().expect("the program runs")
}

fn tidemill(arguments: &[&str]) -> String {
    let output = ran(arguments);
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
        let backfill = ran(&["backfill", queries, "--from", archive, "--local", local]);
        let said = String::from_utf8_lossy(&backfill.stdout);
        assert!(backfill.status.success() && said.contains("alerts are not sent again"), "{said}");
        assert_eq!(String::from_utf8_lossy(&backfill.stderr), "", "the archive is the table");
        assert!(!again.join("sns").exists(), "alerts were sent again");
        let (live, again) = (tables(&live), tables(&again));
        assert!(live.len() > 100, "{inputs:?} gave {} rows only", live.len());
        let missing: Vec<_> = live.iter().filter(|row| !again.contains(row)).take(3).collect();
        let extra: Vec<_> = again.iter().filter(|row| !live.contains(row)).take(3).collect();
        assert_eq!(live.len(), again.len(), "{inputs:?}: only live {missing:#?}, only backfill {extra:#?}");
        assert!(missing.is_empty() && extra.is_empty(), "{inputs:?}: only live {missing:#?}, only backfill {extra:#?}");
    }
}

/// Files below a folder, hidden ones too.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn lines(folder: &Path) -> Vec<String> {
    let texts = files(folder).into_iter().map(|path| std::fs::read_to_string(path).expect("text"));
    let mut lines: Vec<String> = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.sort();
    lines
}

const CLICKS: &str = "
CREATE TABLE clicks (id BIGINT, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '5' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');
CREATE TABLE same_clicks (id BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
CREATE TABLE clicks_per_minute (m STRING, c BIGINT, PRIMARY KEY (m) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'clicks_per_minute');
CREATE TABLE ids (id BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'ids');
INSERT INTO clicks_per_minute SELECT DATE_FORMAT(window_start, 'HH:mm'), COUNT(*)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
INSERT INTO ids SELECT id FROM same_clicks;
";
const CLICKS_ARCHIVE: &str = "
CREATE TABLE archive (id BIGINT, at TIMESTAMP_LTZ(3)) WITH ('connector' = 's3', 'path' = 's3://archive/clicks', 'format' = 'parquet');
INSERT INTO archive SELECT id, at FROM clicks;
";
const ORDERS: &str = "
CREATE TABLE orders (buyer STRING, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '5' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 'orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');
CREATE TABLE orders_per_minute (m STRING, c BIGINT, PRIMARY KEY (m) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'orders_per_minute');
CREATE TABLE buyers (buyer STRING, PRIMARY KEY (buyer) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'buyers');
INSERT INTO orders_per_minute SELECT DATE_FORMAT(window_start, 'HH:mm'), COUNT(*)
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
INSERT INTO buyers SELECT buyer FROM orders;
";

/// Each query counts what it counts live: an archive of clicks has no orders, though it has all columns that a count of orders needs.
#[test]
fn an_archive_is_read_for_the_tables_whose_rows_it_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = |name: &str| folder.path().join(name).display().to_string();
    for (stream, count, with) in [("clicks", 100, ""), ("orders", 30, r#","buyer":"b""#)] {
        let path = folder.path().join("live/kinesis").join(stream);
        std::fs::create_dir_all(&path).expect("a stream");
        let line = |id: u32| format!("{{\"id\":{id}{with},\"at\":\"2026-03-01T10:{:02}:{:02}Z\"}}\n", id / 60, id % 60);
        std::fs::write(path.join("shard-0.jsonl"), (0..count).map(line).collect::<String>()).expect("events");
    }
    let parts = [("clicks.sql", CLICKS), ("archive.sql", CLICKS_ARCHIVE), ("orders.sql", ORDERS)];
    parts.iter().for_each(|(name, text)| std::fs::write(folder.path().join(name), text).expect("a job"));
    let [clicks, archive, orders] = parts.map(|(name, _)| own(name));
    let (live, from) = (own("live"), own("live/s3/archive/clicks"));
    tidemill(&["run", &clicks, &archive, &orders, "--local", &live, "--drain"]);
    let before = tables(Path::new(&live));
    assert_eq!(before.len(), 2 + 100 + 1 + 1, "{before:?}");

    // Into the same tables: nothing of the others is written over.
    let backfill = |jobs: &[&str], local: &str, more: &[&str]| {
        tidemill(&[&["backfill"], jobs, &["--from", &from, "--local", local], more].concat())
    };
    let all = [&*clicks, &archive, &orders];
    let said = backfill(&all, &live, &[]);
    let left_out = "left out, it reads 'orders', whose rows the archive does not have (--table)";
    assert_eq!(said.matches(left_out).count(), 2, "{said}");
    assert!(said.contains("ids: 100 rows out"), "it is of the same stream: {said}");
    assert_eq!(tables(Path::new(&live)), before);
    // Rows without a time are in no range of it.
    let said = backfill(&all, &live, &["--start", "2026-03-01T10:01:00Z"]);
    assert!(
        said.contains("clicks_per_minute: 1 rows out") && said.contains("left out, 'same_clicks' has no WATERMARK"),
        "{said}"
    );
    assert_eq!(tables(Path::new(&live)), before);

    // A job that does not write it says whose it is, if there is a choice.
    let again = own("again");
    let mut refused = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    let refused = refused.args(["backfill", &clicks, &orders, "--from", &from, "--local", &again]).output();
    let refused = refused.expect("the program runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("tables 'clicks', 'orders'") && said.contains("--table"),
        "{said}"
    );
    let said = backfill(&[&clicks, &orders], &again, &["--table", "clicks", "--table", "same_clicks"]);
    assert_eq!(said.matches(left_out).count(), 2, "{said}");
    let of_clicks: Vec<String> =
        before.iter().filter(|row| !row.starts_with("orders_") && !row.starts_with("buyers")).cloned().collect();
    assert_eq!(tables(Path::new(&again)), of_clicks);
    let alone = own("alone");
    backfill(&[&clicks], &alone, &[]);
    assert_eq!(tables(Path::new(&alone)), of_clicks);
}

const ARCHIVED: &str = "
CREATE TABLE events (id BIGINT, event_type STRING, hour_of_day INT, tag BYTES)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
CREATE TABLE archive (id BIGINT, event_type STRING, hour_of_day INT, tag BYTES) PARTITIONED BY (event_type, hour_of_day, tag)
WITH ('connector' = 'filesystem', 'path' = '${ARCHIVE}', 'format' = 'parquet', 'partition.default-name' = 'none');
CREATE TABLE copies (id BIGINT, event_type STRING, hour_of_day INT, tag BYTES)
WITH ('connector' = 'filesystem', 'path' = '${OUT}', 'format' = 'json');
INSERT INTO archive SELECT * FROM events;
INSERT INTO copies SELECT * FROM events WHERE event_type IS NULL OR event_type <> 'left out';
";

/// Whatever the archive's path is called, its own query does not write it again; what its folders say are columns; and what a run that
/// was killed has left there is not read.
#[test]
fn an_archive_is_read_as_the_connector_reads_it_and_not_written_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path();
    std::fs::create_dir(dir.join("in")).expect("a folder");
    let (mut events, types) = (String::new(), [r#""page/view""#, "null", r#""left out""#, r#""a=b%20""#]);
    for id in 0..40 {
        let (event_type, hour, tag) = (types[id % 4], ["8", "null", "10"][id % 3], ["null", r#""AP+/""#][id % 2]);
        events.push_str(&format!("{{\"id\":{id},\"event_type\":{event_type},\"hour_of_day\":{hour},\"tag\":{tag}}}\n"));
    }
    std::fs::write(dir.join("in/a.jsonl"), events).expect("events");
    std::fs::write(dir.join("job.sql"), ARCHIVED).expect("a job");
    let own = |name: &str| dir.join(name).display().to_string();
    let local = own("local");
    for (number, (path, place)) in [
        (format!("file://{}", own("archive-0")), own("archive-0")),
        (format!("file:{}", own("archive-1")), own("archive-1")),
        ("s3a://bucket/archive".to_owned(), own("local/s3/bucket/archive")),
        ("s3://bucket/other".to_owned(), own("local/s3/bucket/other")),
        (own("archive-2/"), own("archive-2")),
    ]
    .into_iter()
    .enumerate()
    {
        let (live, again) = (own(&format!("live-{number}")), own(&format!("again-{number}")));
        let run = |command: &[&str], out: &str| {
            let parameters = [format!("DIR={}", dir.display()), format!("ARCHIVE={path}"), format!("OUT={out}")];
            let mut arguments = vec![command[0], &*own("job.sql").leak(), "--local", &local];
            arguments.extend(&command[1..]);
            arguments.extend(parameters.iter().flat_map(|parameter| ["--param", parameter]));
            tidemill(&arguments)
        };
        run(&["run", "--drain", "--fresh"], &live);
        let archived = files(Path::new(&place));
        assert_eq!(archived.len(), 12, "{path}: {archived:?}");
        let unfinished = archived[0].with_file_name(".part-job-1-99-e9.parquet");
        std::fs::write(&unfinished, "PAR1 and so on").expect("what a killed run has left");
        let said = run(&["backfill", "--from", &place], &again);
        assert!(said.contains("left out, it writes the archive that is read"), "{path}: {said}");
        std::fs::remove_file(unfinished).expect("it is still there");
        assert_eq!(files(Path::new(&place)), archived, "{path}");
        let (live, again) = (lines(Path::new(&live)), lines(Path::new(&again)));
        assert_eq!(live.len(), 30, "{path}");
        assert!(live.iter().any(|line| line.contains(r#""page/view","hour_of_day":8,"tag":null"#)), "{live:?}");
        assert!(live.iter().any(|line| line.contains(r#""event_type":null,"hour_of_day":8,"tag":"AP+/""#)), "{live:?}");
        assert_eq!(live, again, "{path}");
    }
}

const PARTS: &str = "
CREATE TABLE clicks (id BIGINT, v BIGINT, k STRING, at TIMESTAMP_LTZ(3), split_watermark TIMESTAMP_LTZ(3) METADATA FROM 'watermark',
  twice AS v * 2, WATERMARK FOR at AS at - INTERVAL '5' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');
CREATE VIEW good AS SELECT * FROM clicks WHERE k <> 'x' AND REQUIRE(v >= 0, 'negative');
CREATE TABLE totals (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'totals');
CREATE TABLE alike (id BIGINT, n BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'alike');
CREATE TABLE archive (id BIGINT, v BIGINT, k STRING, at TIMESTAMP_LTZ(3), split_watermark TIMESTAMP_LTZ(3))
WITH ('connector' = 's3', 'path' = 's3://archive/clicks', 'format' = 'parquet');
INSERT INTO totals SELECT k, SUM(v) FROM clicks GROUP BY k;
INSERT INTO alike SELECT id, twice FROM good;
";

/// What an archive is not is said, and by that whose results are other ones; what it is, is not.
#[test]
fn what_an_archive_lacks_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = |name: &str| folder.path().join(name).display().to_string();
    let (job, from, all) = (own("job.sql"), own("live/s3/archive/clicks"), "id, v, k, at, split_watermark");
    std::fs::create_dir_all(folder.path().join("live/kinesis/clicks")).expect("a stream");
    let line = |id: u32| format!("{{\"id\":{id},\"v\":{id},\"k\":\"k\",\"at\":\"2026-03-01T10:00:{id:02}Z\"}}\n");
    let events = (0..20).map(line).collect::<String>();
    std::fs::write(folder.path().join("live/kinesis/clicks/shard-0.jsonl"), events).expect("events");
    let told = |sql: String, into: &str| {
        std::fs::write(&job, format!("{PARTS}{sql}")).expect("a job");
        tidemill(&["run", &job, "--local", &own("live"), "--drain", "--fresh"]);
        let output = ran(&["backfill", &job, "--from", &from, "--local", &own(into)]);
        let said = String::from_utf8_lossy(&output.stderr).replace(folder.path().to_str().expect("UTF-8"), "DIR");
        assert!(output.status.success(), "{said}");
        said.lines().filter(|line| !line.contains("keeps each key for ever")).map(str::to_owned).collect::<Vec<_>>()
    };
    let conditions = "note: the archive has only the rows that meet the conditions of 'job:archive'";
    for (insert, expected) in [
        (format!("INSERT INTO archive SELECT {all} FROM clicks;"), vec![]),
        // A number in a narrower type is the same, or fails.
        ("INSERT INTO archive SELECT ABS(id), CAST(v AS INT), k, at, split_watermark FROM clicks;".to_owned(), vec![
            "note: column 'id' of the archive is not column 'id' of 'clicks' as it came: 'job:archive' writes something else there".to_owned(),
        ]),
        (format!("INSERT INTO archive SELECT {all} FROM good;"), vec![
            format!("{conditions}: 'job:totals' may count others, too, and what is computed is without them"),
        ]),
        (format!("INSERT INTO archive SELECT {all} FROM clicks WHERE v > 3;"), vec![
            format!("{conditions}: 'job:totals', 'job:alike' may count others, too, and what is computed is without them"),
        ]),
        (format!("INSERT INTO archive SELECT {all} FROM clicks; INSERT INTO archive SELECT {all} FROM clicks WHERE v > 3;"), vec![
            "note: 'job:archive', 'job:archive#2' write into the archive: a row that several of them write counts more than once, and one that none of \
             them writes does not count".to_owned(),
        ]),
        (format!("INSERT INTO archive SELECT {all} FROM clicks UNION ALL SELECT {all} FROM good;"), vec![
            "note: what 'job:archive' writes into the archive are not the rows of a table, each once (it groups, joins, or puts parts together): \
             results are computed from what it writes".to_owned(),
        ]),
        ("INSERT INTO archive SELECT v, twice, k, at, split_watermark FROM clicks;".to_owned(), ["id", "v"].map(|name| format!(
            "note: column '{name}' of the archive is not column '{name}' of 'clicks' as it came: 'job:archive' writes something else there"
        )).to_vec()),
    ] {
        assert_eq!(told(insert.clone(), "live"), expected, "{insert}");
        assert_eq!(told(insert.clone(), "again"), expected, "{insert}, into other tables");
    }

    // Files from before a column was archived.
    let create = "CREATE TABLE older (id BIGINT, k STRING, at TIMESTAMP_LTZ(3), split_watermark TIMESTAMP_LTZ(3))
                  WITH ('connector' = 's3', 'path' = 's3://archive/clicks', 'format' = 'parquet');";
    let older = format!("{create} INSERT INTO older SELECT id, k, at, split_watermark FROM clicks;");
    std::fs::write(&job, format!("{PARTS}{older}")).expect("a job");
    tidemill(&["run", &job, "--local", &own("live"), "--drain", "--fresh"]);
    let old = files(Path::new(&from)).remove(0);
    let kept = folder.path().join("old.parquet");
    std::fs::rename(&old, &kept).expect("a file of the archive");
    let said = {
        std::fs::write(&job, format!("{PARTS}INSERT INTO archive SELECT {all} FROM clicks;")).expect("a job");
        tidemill(&["run", &job, "--local", &own("live"), "--drain", "--fresh"]);
        std::fs::copy(&kept, Path::new(&from).join("old.parquet")).expect("an older file");
        let output = ran(&["backfill", &job, "--from", &from, "--local", &own("live")]);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(
        said.contains("note: 1 file(s) of the archive have no column 'v' of 'clicks', such as '")
            && said.contains("old.parquet': it is NULL"),
        "{said}"
    );

    let refused = |more: &[&str]| {
        let local = own("live");
        let output = ran(&[&["backfill", &*job, "--from", &*from, "--local", &*local], more].concat());
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&["--start", "2026-03-02T00:00:00Z", "--end", "2026-03-01T00:00:00Z"]);
    assert!(said.contains("--start is not before --end"), "{said}");
    // A file that is cut off is told by its name.
    let whole = std::fs::read(&kept).expect("an older file");
    std::fs::write(Path::new(&from).join("cut.parquet"), &whole[..whole.len() - 20]).expect("a file");
    let said = refused(&[]);
    assert!(said.contains("cut.parquet': ") && said.contains("copy it once more"), "{said}");
}
