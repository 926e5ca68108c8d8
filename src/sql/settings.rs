//! `SET 'key' = 'value'`: what a job honours, what it knows and ignores.

use std::collections::BTreeMap;

use super::catalog::nearest;
use crate::connectors::files::check_path;
use crate::contracts::{Error, LeasePlace, Location, Result};
use crate::operators::Poison;
use crate::runtime::Retries;

/// Bytes of an epoch: 131,072 records of 512 bytes, so that rows are the bound of ordinary records, and bytes that of large ones.
const EPOCH_BYTES: usize = 64 << 20;

/// Settings of a job, with their defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the job; the folder's name by default.
    pub name: Option<String>,
    /// Zone of TIMESTAMP_LTZ where text is made of it. UTC by default (Flink: the machine's).
    pub time_zone: chrono_tz::Tz,
    /// How far behind the watermark a row of a running aggregate may be. Its keys are kept for longer: `TimeToLive::kept_ms`.
    pub state_ttl_ms: Option<i64>,
    /// Time without data after which a split no longer holds the watermark back.
    pub idle_timeout_ms: i64,
    /// Longest time that an epoch stays open.
    pub epoch_interval_ms: i64,
    /// Rows at which an epoch closes before its time.
    pub epoch_rows: usize,
    /// Bytes of records at which an epoch closes before its time.
    pub epoch_bytes: usize,
    /// How long before its epoch a record may have arrived.
    pub record_age_ms: Option<i64>,
    /// Whether late rows are written to the error output, or counted only.
    pub late_to_errors: bool,
    /// Whether rows with a NULL for a NOT NULL column (or a key) are left out.
    pub drop_nulls: bool,
    /// Where refused records go, instead of the default place.
    pub errors_path: Option<String>,
    /// Where checkpoints lie, when the job does not run on local stand-ins.
    pub checkpoints_path: Option<String>,
    /// Time between two checkpoints; 0 is only at the end of a run.
    pub checkpoint_interval_ms: i64,
    /// Checkpoints that are kept.
    pub checkpoints_kept: usize,
    /// Where the job's lease is kept, so that one of several replicas runs it.
    pub lease: Option<LeasePlace>,
    /// Silence of the leader after which another replica takes over.
    pub lease_ttl_ms: i64,
    /// What is done about rows that make a query fail.
    pub poison: Poison,
    /// What is done when a run fails.
    pub retries: Retries,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: None,
            time_zone: chrono_tz::UTC,
            state_ttl_ms: None,
            idle_timeout_ms: 30_000,
            epoch_interval_ms: 1_000,
            epoch_rows: 131_072,
            epoch_bytes: EPOCH_BYTES,
            record_age_ms: None,
            late_to_errors: false,
            drop_nulls: false,
            errors_path: None,
            checkpoints_path: None,
            checkpoint_interval_ms: 10_000,
            checkpoints_kept: 3,
            lease: None,
            lease_ttl_ms: 8_000,
            poison: Poison::default(),
            retries: Retries::default(),
        }
    }
}

/// Keys that change something here.
const HONOURED: [&str; 30] = [
    "pipeline.name",
    "table.local-time-zone",
    "table.exec.state.ttl",
    "table.exec.source.idle-timeout",
    "table.exec.mini-batch.enabled",
    "table.exec.mini-batch.allow-latency",
    "table.exec.mini-batch.size",
    "tidemill.epoch.interval",
    "tidemill.epoch.rows",
    "tidemill.epoch.bytes",
    "tidemill.maximum-record-age",
    "tidemill.late-rows",
    "tidemill.errors.path",
    "tidemill.lease",
    "tidemill.lease.ttl",
    "tidemill.batch-size",
    "tidemill.batching-window",
    "tidemill.maximum-retry-attempts",
    "tidemill.retry-delay",
    "tidemill.on-exhausted-retries",
    "tidemill.bisect-batch-on-function-error",
    "tidemill.maximum-failed-rows",
    "tidemill.on-failure-destination",
    "execution.checkpointing.interval",
    "execution.checkpointing.dir",
    "execution.checkpointing.num-retained",
    "state.checkpoints.dir",
    "state.checkpoints.num-retained",
    "execution.runtime-mode",
    "table.exec.sink.not-null-enforcer",
];

/// Keys of Flink's that mean nothing here.
const IGNORED: [&str; 14] = [
    "parallelism.default",
    "table.optimizer.",
    "sql-client.",
    "state.",
    "restart-strategy",
    "table.dml-sync",
    "table.exec.sink.upsert-materialize",
    "table.exec.sink.",
    "pipeline.",
    "execution.",
    "table.exec.resource.",
    "taskmanager.",
    "jobmanager.",
    "rest.",
];

impl Settings {
    /// Reads the SETs of a job. Unknown keys are warnings, bad values are errors.
    pub(crate) fn read(
        given: &BTreeMap<String, (String, Location)>,
        warnings: &mut Vec<String>,
        errors: &mut Vec<Error>,
    ) -> Self {
        let mut settings = Self::default();
        for (key, (value, place)) in given {
            if let Err(error) = settings.set(key, value, warnings) {
                errors.push(error.at(place.clone()));
            }
        }
        settings
    }

    fn set(&mut self, key: &str, value: &str, warnings: &mut Vec<String>) -> Result<()> {
        let wrong = |what: &str| Error::sql(format!("'{key}' = '{value}' is not {what}"));
        let length =
            || duration_ms(value).ok_or_else(|| wrong("a length of time").hint("write '3 d', '10 min', '500 ms'"));
        let path = || match check_path(value) {
            Ok(()) => Ok(value.to_owned()),
            Err(error) => {
                let hint = error.hint_text().unwrap_or("a plain path, file:///… or s3://bucket/key").to_owned();
                Err(Error::sql(format!("'{key}': {}", error.message())).hint(hint))
            }
        };
        match key {
            "pipeline.name" => {
                let is_folder = !matches!(value.trim(), "" | "." | "..") && !value.contains(['/', '\\']);
                if !is_folder || value.contains(char::is_control) {
                    let hint = "checkpoints lie in a folder of this name: without '/', '\\' and control characters, and not empty, '.' or '..'";
                    let below = value.rsplit_once('/').filter(|(_, name)| !matches!(*name, "" | "." | ".."));
                    let hint = match below {
                        Some((above, name)) => format!(
                            "{hint} (a state that an earlier version has kept for it is that of '{name}', with the checkpoints' folder of now and /{above} behind it)"
                        ),
                        None => hint.to_owned(),
                    };
                    return Err(wrong("a name for a job").hint(hint));
                }
                self.name = Some(value.to_owned());
            }
            "table.local-time-zone" => {
                self.time_zone = value
                    .parse()
                    .map_err(|_| wrong("a time zone").hint("write a name such as 'UTC' or 'Europe/Berlin'"))?;
            }
            "table.exec.state.ttl" => self.state_ttl_ms = Some(length()?).filter(|ms| *ms > 0),
            "table.exec.source.idle-timeout" => self.idle_timeout_ms = length()?,
            "table.exec.mini-batch.allow-latency" | "tidemill.epoch.interval" | "tidemill.batching-window" => {
                self.epoch_interval_ms = length()?.max(1);
            }
            "tidemill.epoch.rows" | "tidemill.batch-size" => {
                self.epoch_rows =
                    value.parse().ok().filter(|rows| *rows > 0).ok_or_else(|| wrong("a number of rows"))?;
            }
            "tidemill.epoch.bytes" => {
                self.epoch_bytes =
                    value.parse().ok().filter(|bytes| *bytes > 0).ok_or_else(|| wrong("a number of bytes"))?;
            }
            // As in Lambda, -1 is without a bound. Lambda counts seconds where a bare number is milliseconds here: neither is guessed.
            "tidemill.maximum-record-age" if value == "-1" => self.record_age_ms = None,
            "tidemill.maximum-record-age" => {
                let has_unit = !value.trim().ends_with(|c: char| c.is_ascii_digit());
                let age = duration_ms(value).filter(|ms| *ms > 0 && has_unit);
                let hint = "write '1 h' or '90 s', with the unit; '-1' is any age";
                self.record_age_ms = Some(age.ok_or_else(|| wrong("an age").hint(hint))?);
            }
            "tidemill.late-rows" => {
                self.late_to_errors = match value {
                    "count" => false,
                    "errors" => true,
                    _ => return Err(wrong("'count' or 'errors'")),
                }
            }
            "table.exec.sink.not-null-enforcer" => {
                self.drop_nulls = match value.to_ascii_uppercase().as_str() {
                    "DROP" => true,
                    "ERROR" => false,
                    _ => return Err(wrong("'DROP' or 'ERROR'")),
                }
            }
            // As in Lambda.
            "tidemill.maximum-retry-attempts" if value == "-1" => self.retries.most = Retries::FOR_EVER,
            "tidemill.maximum-retry-attempts" => {
                let most = value.parse().map_err(|_| wrong("a number of attempts").hint("'-1' is without an end"));
                self.retries.most = most?;
            }
            "tidemill.retry-delay" => self.retries.delay_ms = length()?.max(0),
            "tidemill.on-exhausted-retries" => {
                self.retries.skips = match value {
                    "stop" => false,
                    "skip" => true,
                    _ => return Err(wrong("'stop' or 'skip'")),
                }
            }
            "tidemill.bisect-batch-on-function-error" => {
                self.poison.bisects = value.parse().map_err(|_| wrong("'true' or 'false'"))?;
            }
            "tidemill.maximum-failed-rows" => {
                self.poison.most_rows = value.parse().map_err(|_| wrong("a number of rows"))?;
            }
            "tidemill.lease" => {
                self.lease = Some(LeasePlace::parse(value).map_err(|_| wrong("'checkpoints' or 'dynamodb:TABLE'"))?);
            }
            "tidemill.lease.ttl" => {
                self.lease_ttl_ms = length()?;
                if self.lease_ttl_ms < 500 {
                    return Err(wrong("at least 500 ms"));
                }
            }
            "tidemill.errors.path" | "tidemill.on-failure-destination" => self.errors_path = Some(path()?),
            "table.exec.mini-batch.enabled" if !matches!(value, "true" | "false") => {
                return Err(wrong("'true' or 'false'"));
            }
            "table.exec.mini-batch.size" if value.parse::<u64>().is_err() => return Err(wrong("a number")),
            "execution.checkpointing.interval" => self.checkpoint_interval_ms = length()?.max(0),
            "state.checkpoints.dir" | "execution.checkpointing.dir" => self.checkpoints_path = Some(path()?),
            "state.checkpoints.num-retained" | "execution.checkpointing.num-retained" => {
                self.checkpoints_kept =
                    value.parse().ok().filter(|kept| *kept > 0).ok_or_else(|| wrong("a number from 1 on"))?;
            }
            _ if HONOURED.contains(&key) => {}
            _ if IGNORED.iter().any(|known| key.starts_with(known)) => {
                warnings.push(format!("'{key}' has no effect in Tidemill"));
            }
            _ => {
                let near = nearest(key, HONOURED.into_iter()).map(|n| format!("; did you mean '{n}'?"));
                warnings.push(format!("'{key}' is not a known setting and has no effect{}", near.unwrap_or_default()));
            }
        }
        Ok(())
    }
}

/// `3 d`, `10min`, `500 ms`, `1 h`, as Flink writes lengths of time; a bare number is milliseconds.
pub(crate) fn duration_ms(text: &str) -> Option<i64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim().to_lowercase().as_str() {
        "" | "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(factor)
}
