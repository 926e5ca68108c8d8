//! What the job has made so far, read beside it: the SQLite file through a connection that cannot write, the topic's and
//! the error output's files from where they were left.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::FromSql;
use rusqlite::{Connection, OpenFlags, Row, ToSql};
use serde_json::Value;

use super::text::{clock_time, money};

/// Alerts that are kept to be shown.
const ALERTS_KEPT: usize = 20;
/// Most bytes read of a growing file at once.
const READ_BYTES: u64 = 4 << 20;

/// Figures of the day, the hour and the last windows.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// All page views of today.
    pub(super) views: i64,
    /// Page and views, the most viewed first.
    pub(super) pages: Vec<(String, i64)>,
    /// Currency (first `total`), cents and orders of today.
    pub(super) revenue: Vec<(String, i64, i64)>,
    /// Code, count and last message of this hour.
    pub(super) errors: Vec<(String, i64, String)>,
    /// Start of the last closed minute.
    pub(super) minute: Option<String>,
    /// Page, views, visitors in it.
    pub(super) minute_pages: Vec<(String, i64, i64)>,
    /// Category, cents and orders in it.
    pub(super) categories: Vec<(String, i64, i64)>,
    /// Start of the last closed five minutes.
    pub(super) five_minutes: Option<String>,
    /// Page and views in them.
    pub(super) top_pages: Vec<(String, i64)>,
}

/// An alert, in a line.
#[derive(Debug, Clone)]
pub(super) struct Alert {
    pub(super) spike: bool,
    pub(super) line: String,
}

/// Reads results.
pub(super) struct Results {
    database: PathBuf,
    connection: Option<Connection>,
    topic: Tail,
    errors_folder: PathBuf,
    errors: Option<Tail>,
    archive: PathBuf,
    /// The last alerts, the newest first.
    alerts: VecDeque<Alert>,
    last_spike: Option<Alert>,
    /// Messages for large orders.
    pub(super) orders: u64,
    /// Messages for error spikes.
    pub(super) spikes: u64,
    /// Why the last record was refused.
    pub(super) last_refusal: Option<String>,
}

impl Results {
    pub(super) fn new(local: &Path) -> Self {
        Self {
            database: local.join("dynamodb.sqlite"),
            connection: None,
            topic: Tail::new(local.join("sns/analytics-alerts.jsonl")),
            errors_folder: local.join("errors"),
            errors: None,
            archive: local.join("s3/my-analytics-archive/events"),
            alerts: VecDeque::new(),
            last_spike: None,
            orders: 0,
            spikes: 0,
            last_refusal: None,
        }
    }

    /// The figures at `now_ms`, with at most `most` lines each. What is not there yet is left out.
    pub(super) fn figures(&mut self, now_ms: i64, most: usize) -> Figures {
        let Some(connection) = self.connection() else { return Figures::default() };
        let now = chrono::DateTime::from_timestamp_millis(now_ms).unwrap_or_default();
        let day = now.format("%Y-%m-%d").to_string();
        let hour = now.format("%Y-%m-%d#%H").to_string();
        let (views_key, revenue_key, errors_key) =
            (format!("pageviews#{day}"), format!("revenue#{day}"), format!("errors#{hour}"));
        let two = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let minute = "SELECT max(window_start) FROM \"page-views-per-minute\"";
        let minute: Option<String> = one(connection, minute);
        let five_minutes: Option<String> = one(connection, "SELECT max(window_start) FROM \"top-pages\"");
        Figures {
            views: all(
                connection,
                "SELECT coalesce(sum(view_count), 0) FROM \"analytics-metrics\" WHERE metric_key = ?1",
                &[&views_key],
                |row| row.get(0),
            )
            .pop()
            .unwrap_or(0),
            pages: all(
                connection,
                "SELECT sort_key, view_count FROM \"analytics-metrics\" WHERE metric_key = ?1
                 ORDER BY view_count DESC, sort_key LIMIT ?2",
                &[&views_key, &(most as i64)],
                two,
            ),
            revenue: all(
                connection,
                "SELECT sort_key, total_revenue, order_count FROM \"analytics-metrics\" WHERE metric_key = ?1
                 ORDER BY sort_key = 'total' DESC, total_revenue DESC LIMIT ?2",
                &[&revenue_key, &(most as i64)],
                three,
            ),
            errors: all(
                connection,
                "SELECT sort_key, error_count, last_message FROM \"analytics-metrics\" WHERE metric_key = ?1
                 ORDER BY error_count DESC, sort_key LIMIT ?2",
                &[&errors_key, &(most as i64)],
                three,
            ),
            minute_pages: all(
                connection,
                "SELECT page, view_count, visitors FROM \"page-views-per-minute\" WHERE window_start = ?1
                 ORDER BY view_count DESC, page LIMIT ?2",
                &[&minute, &(most as i64)],
                three,
            ),
            categories: all(
                connection,
                "SELECT category, total_revenue, order_count FROM \"revenue-by-category\" WHERE window_start = ?1
                 ORDER BY total_revenue DESC, category LIMIT ?2",
                &[&minute, &(most as i64)],
                three,
            ),
            top_pages: all(
                connection,
                "SELECT page, view_count FROM \"top-pages\" WHERE window_start = ?1 ORDER BY rank LIMIT ?2",
                &[&five_minutes, &(most as i64)],
                two,
            ),
            minute,
            five_minutes,
        }
    }

    fn connection(&mut self) -> Option<&Connection> {
        if self.connection.is_none() && self.database.exists() {
            let connection = Connection::open_with_flags(&self.database, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
            connection.busy_timeout(Duration::from_millis(200)).ok()?;
            self.connection = Some(connection);
        }
        self.connection.as_ref()
    }

    /// Reads what the topic and the error output have got since the last call; returns the new alerts.
    pub(super) fn follow(&mut self) -> Vec<Alert> {
        let mut new = Vec::new();
        for line in self.topic.lines() {
            let Some(alert) = alert(&line) else { continue };
            if alert.spike {
                self.spikes += 1;
                self.last_spike = Some(alert.clone());
            } else {
                self.orders += 1;
            }
            self.alerts.push_front(alert.clone());
            self.alerts.truncate(ALERTS_KEPT);
            new.push(alert);
        }
        let newest = files(&self.errors_folder).into_iter().map(|(path, _)| path).max();
        if let Some(path) = newest
            && self.errors.as_ref().is_none_or(|tail| tail.path != path)
        {
            self.errors = Some(Tail::new(path));
        }
        if let Some(refused) = self.errors.as_mut().and_then(|tail| tail.lines().pop()) {
            let text = |name: &str| refused[name].as_str().unwrap_or_default().to_owned();
            self.last_refusal = Some(format!("{} {} {}", text("reason"), text("column"), text("detail")));
        }
        new
    }

    /// The last alerts, the newest first. The last error spike is among them, however many orders came after it.
    pub(super) fn last_alerts(&self, most: usize) -> Vec<&Alert> {
        let mut last: Vec<&Alert> = self.alerts.iter().take(most).collect();
        if let Some(spike) = &self.last_spike
            && !last.iter().any(|alert| alert.spike)
        {
            last.truncate(most.saturating_sub(1));
            last.push(spike);
        }
        last
    }

    /// Finished files and their bytes, and those that are still hidden because they grow.
    pub(super) fn archive(&self) -> (usize, u64, usize) {
        let (mut finished, mut bytes, mut growing) = (0, 0, 0);
        for (path, length) in files(&self.archive) {
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if hidden {
                growing += 1;
            } else {
                finished += 1;
                bytes += length;
            }
        }
        (finished, bytes, growing)
    }
}

fn three<A: FromSql, B: FromSql, C: FromSql>(row: &Row<'_>) -> rusqlite::Result<(A, B, C)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

/// Rows of a query; none where its table is missing (somebody may have edited the queries) or busy.
fn all<T>(
    connection: &Connection,
    sql: &str,
    parameters: &[&dyn ToSql],
    take: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Vec<T> {
    let Ok(mut statement) = connection.prepare_cached(sql) else { return Vec::new() };
    let Ok(rows) = statement.query_map(parameters, take) else { return Vec::new() };
    rows.flatten().collect()
}

fn one(connection: &Connection, sql: &str) -> Option<String> {
    all(connection, sql, &[], |row| row.get(0)).pop().flatten()
}

/// A line of the topic as a line for people.
fn alert(line: &Value) -> Option<Alert> {
    let body: Value = serde_json::from_str(line["message"].as_str()?).ok()?;
    let text = |name: &str| body[name].as_str().unwrap_or("?").to_owned();
    if let Some(count) = body["error_count"].as_u64() {
        let line = format!("{}  error {}: {count} times", clock_time(&text("window_start")), text("error_code"));
        return Some(Alert { spike: true, line });
    }
    let amount = body["order_amount"].to_string();
    let cents = (amount.parse::<f64>().ok()? * 100.0).round() as i64;
    let line = format!("{}  order {}, {}", clock_time(&text("timestamp")), money(cents), text("user_id"));
    Some(Alert { spike: false, line })
}

/// Files below a folder.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => found.extend(files(&entry.path())),
            Ok(metadata) => found.push((entry.path(), metadata.len())),
            Err(_) => {}
        }
    }
    found
}

/// A growing file of JSON lines.
struct Tail {
    path: PathBuf,
    offset: u64,
}

impl Tail {
    fn new(path: PathBuf) -> Self {
        Self { path, offset: 0 }
    }

    /// The whole lines that have come since the last call.
    fn lines(&mut self) -> Vec<Value> {
        let mut text = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            file.take(READ_BYTES).read_to_end(&mut text)
        });
        let Some(end) = memchr::memrchr(b'\n', &text).filter(|_| read.is_ok()) else { return Vec::new() };
        self.offset += end as u64 + 1;
        text[..end].split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }
}
