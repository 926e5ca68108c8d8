//! The job that is killed, what it reads, and what a run makes of it that nothing disturbs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::left::{alerts, archive, assert_same, errors, reasons, tables};
use crate::{text, tidemill};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Results of windows in files: rows that no epoch gives again once their window has closed.
const WINDOW_FILES: &str = "
CREATE TABLE minutes (window_start TIMESTAMP(3), event_type STRING, events BIGINT, users BIGINT, `day` STRING)
PARTITIONED BY (`day`) WITH ('connector' = 'filesystem', 'path' = 's3://minutes/m/', 'format' = 'parquet',
  'sink.rolling-policy.rollover-interval' = '300 s');
INSERT INTO minutes
SELECT window_start, event_type, COUNT(*), COUNT(DISTINCT data.user_id), DATE_FORMAT(window_start, 'yyyy-MM-dd')
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, event_type;
";

/// Every way in which a row is refused behind the decoder: by a condition, by the query that fails, by the sink, by the time.
const REFUSALS: &str = "
SET 'tidemill.late-rows' = 'errors';
CREATE TABLE checked (id STRING, number INT, PRIMARY KEY (id) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'checked');
INSERT INTO checked
SELECT CASE WHEN event_id LIKE '%5' THEN '' ELSE event_id END,
       CASE WHEN event_id LIKE '%7' THEN CAST(event_id AS INT) ELSE 1 END
FROM events WHERE event_type = 'error' AND REQUIRE(event_id NOT LIKE '%3', 'it ends with a three');
";

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), &target).expect("a copy");
            // Records of a plain file have arrived when it was written last.
            let modified = entry.metadata().and_then(|file| file.modified()).expect("a file's time");
            let copied = std::fs::File::options().write(true).open(target).expect("a copy");
            copied.set_modified(modified).expect("a file's time");
        }
    }
}

/// The shipped job, windows into files, and a query whose rows are refused; files are rolled after `rollover`.
pub(crate) fn queries(folder: &Path, rollover: &str) -> PathBuf {
    let queries = folder.join("queries");
    copy(&Path::new(ROOT).join("queries"), &queries);
    std::fs::write(queries.join("minutes.sql"), WINDOW_FILES).expect("written");
    std::fs::write(queries.join("checked.sql"), REFUSALS).expect("written");
    for file in ["archive.sql", "minutes.sql"] {
        let text = std::fs::read_to_string(queries.join(file)).expect("a query");
        assert!(text.contains("'300 s'"), "the rollover that is changed here");
        std::fs::write(queries.join(file), text.replace("'300 s'", &format!("'{rollover}'"))).expect("written");
    }
    queries
}

/// What the job reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input {
    /// 20,000 events in order, by user into four shards.
    Shop,
    /// 2,400 in two shards: late ones, ones out of order, wrong and odd ones.
    Edge,
}

impl Input {
    /// Rows of an epoch: so many that there are some fifty epochs.
    pub(crate) fn epoch_rows(self) -> &'static str {
        match self {
            Self::Shop => "300",
            Self::Edge => "50",
        }
    }

    fn put(self, local: &Path) {
        let data = Path::new(ROOT).join("tests/data");
        match self {
            Self::Shop => {
                let events = data.join("shop.jsonl");
                let to = ["produce", "analytics-events", "--local", text(local), "--from", text(&events)];
                tidemill(&[&to[..], &["--partition-key", "data.user_id"]].concat());
            }
            // A file of lines is a shard.
            Self::Edge => copy(&data.join("edge"), &local.join("kinesis/analytics-events")),
        }
    }

    /// Reasons for which something is refused.
    fn reasons(self) -> &'static [&'static str] {
        const BOTH: [&str; 5] =
            ["wrong_type", "purchase without an amount", "it ends with a three", "query_failed", "empty_key"];
        const MORE: [&str; 9] = [
            BOTH[0],
            BOTH[1],
            BOTH[2],
            BOTH[3],
            BOTH[4],
            "late",
            "invalid_syntax",
            "bad_timestamp",
            "a currency named total would overwrite the total",
        ];
        match self {
            Self::Shop => &BOTH,
            Self::Edge => &MORE,
        }
    }
}

/// A stream of the shipped job, and what an undisturbed run makes of it.
pub(crate) struct Undisturbed {
    pub(crate) stream: PathBuf,
    tables: BTreeMap<String, u64>,
    alerts: BTreeMap<String, u64>,
    files: [BTreeMap<String, u64>; 2],
    errors: BTreeMap<String, u64>,
}

fn archives(local: &Path) -> [BTreeMap<String, u64>; 2] {
    ["my-analytics-archive/events", "minutes/m"].map(|path| archive(&local.join("s3").join(path)))
}

impl Undisturbed {
    pub(crate) fn new(folder: &Path, input: Input) -> Self {
        let (whole, stream) = (folder.join("whole"), folder.join("stream"));
        input.put(&stream);
        copy(&stream, &whole);
        let job = queries(&folder.join("undisturbed"), "300 s");
        tidemill(&["run", text(&job), "--local", text(&whole), "--drain"]);
        let errors = errors(&whole);
        let found = reasons(&errors);
        for reason in input.reasons() {
            assert!(found.contains_key(*reason), "{input:?}: nothing is refused for '{reason}', but {found:?}");
        }
        Self { stream, tables: tables(&whole), alerts: alerts(&whole), files: archives(&whole), errors }
    }

    pub(crate) fn assert_same(&self, seed: u64, local: &Path) {
        assert_same("rows of tables", seed, &self.tables, &tables(local));
        assert_same("alerts", seed, &self.alerts, &alerts(local));
        let [archived, minutes] = archives(local);
        assert_same("archived rows", seed, &self.files[0], &archived);
        assert_same("rows of windows", seed, &self.files[1], &minutes);
        assert_same("lines of the error output", seed, &self.errors, &errors(local));
    }
}
