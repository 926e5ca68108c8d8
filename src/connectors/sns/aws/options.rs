//! Options of an SNS topic as a sink.

use std::time::Duration;

use crate::connectors::options::Options;
use crate::contracts::{Error, Result, TableSpec};

use super::super::message::{ALERT_ID, check_text, topic_name};

/// What is promised when it is not known whether a message was published (`sink.delivery`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// It is published again.
    AtLeastOnce,
    /// It is not; it goes to the error output.
    AtMostOnce,
}

/// Where a FIFO message's group comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Group {
    /// The same for all.
    Constant(String),
    /// A column's text.
    Column(String),
}

/// A key has one alert in `every`.
#[derive(Debug, Clone)]
pub(super) struct CooldownOptions {
    pub(super) every: Duration,
    pub(super) key: Vec<String>,
    /// A column with the alert's time; without, it is the epoch's.
    pub(super) time: Option<String>,
    pub(super) summary: bool,
}

/// All of them.
#[derive(Debug, Clone)]
pub(super) struct SinkOptions {
    /// Name or ARN.
    pub(super) topic: String,
    pub(super) fifo: Option<Group>,
    pub(super) delivery: Delivery,
    pub(super) ledger: Option<String>,
    pub(super) ledger_ttl: Duration,
    pub(super) cooldown: Option<CooldownOptions>,
    pub(super) in_flight: usize,
}

/// Calls at the same time. SNS takes from 300 publishes a second (the smallest regions) on, and alerts are few.
const IN_FLIGHT: i64 = 8;
/// How long a ledger remembers: a replay goes back minutes, a person who repeats a day goes back days.
const LEDGER_TTL: Duration = Duration::from_secs(7 * 86_400);

impl SinkOptions {
    pub(super) fn of(spec: &TableSpec) -> Result<Self> {
        let options = Options(spec);
        let error = |text: String| Error::config(format!("table '{}': {text}", spec.name));
        let topic = options.require(&["topic", "topic.arn"])?;
        let column = |name: &str, option: &str| match spec.schema.index_of(name) {
            Ok(_) => Ok(name.to_owned()),
            Err(_) => Err(error(format!("'{option}' names '{name}', which is no column that the INSERT writes"))),
        };
        let is_fifo = topic_name(topic, &spec.name)?.ends_with(".fifo");
        let summary = options.bool("sink.cooldown.summary", false)?;
        let fifo = match (options.text(&["sink.fifo.group"]), options.text(&["sink.fifo.group.column"])) {
            (Some(_), Some(_)) => {
                return Err(error("'sink.fifo.group' and 'sink.fifo.group.column' exclude each other".to_owned()));
            }
            (Some(group), None) if is_fifo && !is_group(group) => {
                return Err(error(format!("'sink.fifo.group' is '{group}': {GROUPS}")));
            }
            // The group of all, or, beside a column, of summaries.
            (None, column) if is_fifo && !is_group(&spec.name) && (column.is_none() || summary) => {
                return Err(error(format!("its name is no group of messages, which it is by default: {GROUPS}"))
                    .hint("name one: 'sink.fifo.group' = '…'; or give the table another name"));
            }
            (group, None) => Group::Constant(group.unwrap_or(&spec.name).to_owned()),
            (None, Some(name)) => {
                let name = column(name, "sink.fifo.group.column")?;
                check_text(spec, &name)?;
                Group::Column(name)
            }
        };
        if !is_fifo && options.text(&["sink.fifo.group", "sink.fifo.group.column"]).is_some() {
            return Err(
                error("'sink.fifo.*' is for FIFO topics".to_owned()).hint("the name of a FIFO topic ends in '.fifo'")
            );
        }
        let delivery = match options.text(&["sink.delivery"]).map(str::to_ascii_lowercase).as_deref() {
            None | Some("at-least-once") => Delivery::AtLeastOnce,
            Some("at-most-once") => Delivery::AtMostOnce,
            Some(other) => {
                return Err(error(format!("there is no 'sink.delivery' '{other}'"))
                    .hint("it takes at-least-once, at-most-once; on a FIFO topic, both mean once"));
            }
        };
        // A FIFO topic deduplicates what is published again.
        let delivery = if is_fifo { Delivery::AtLeastOnce } else { delivery };
        let ledger = options.text(&["sink.ledger.table"]).map(str::to_owned);
        if delivery == Delivery::AtMostOnce && ledger.is_none() {
            return Err(error(
                "'sink.delivery' 'at-most-once' needs a ledger: without one, a restart publishes again".to_owned(),
            )
            .hint("'sink.ledger.table' names a DynamoDB table with one key, a string"));
        }
        let key = options.text(&["sink.cooldown.key"]).map(|text| {
            let names = text.split([',', ';']).map(str::trim).filter(|n| !n.is_empty());
            names.map(|name| column(name, "sink.cooldown.key")).collect::<Result<Vec<_>>>()
        });
        let every = options.duration("sink.cooldown", Duration::ZERO)?;
        let cooldown = match (every.is_zero(), key.transpose()?) {
            (true, None) => None,
            (true, Some(_)) => return Err(error("'sink.cooldown.key' needs 'sink.cooldown'".to_owned())),
            (false, None) => {
                return Err(error("'sink.cooldown' needs 'sink.cooldown.key'".to_owned())
                    .hint("name the columns whose values are one alert to a person, e.g. 'alert_type,user_id'"));
            }
            (false, Some(key)) => Some(CooldownOptions {
                every,
                key,
                time: options.text(&["sink.cooldown.time"]).map(|n| column(n, "sink.cooldown.time")).transpose()?,
                summary,
            }),
        };
        let in_flight = options.number("sink.requests.max-inflight")?.unwrap_or(IN_FLIGHT);
        let in_flight = usize::try_from(in_flight).ok().filter(|n| (1..=100).contains(n));
        check_attribute_names(spec)?;
        Ok(Self {
            topic: topic.to_owned(),
            fifo: is_fifo.then_some(fifo),
            delivery,
            ledger,
            ledger_ttl: options.duration("sink.ledger.ttl", LEDGER_TTL)?,
            cooldown,
            in_flight: in_flight.ok_or_else(|| error("'sink.requests.max-inflight' is from 1 to 100".to_owned()))?,
        })
    }
}

/// What a "MessageGroupId" is ("Publish").
pub(super) const GROUPS: &str = "a group has 1 to 128 letters, digits or ASCII punctuation";

/// Whether it is one.
pub(super) fn is_group(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic())
}

/// Columns beside a `message` become attributes, whose names SNS restricts ("Message attribute items").
fn check_attribute_names(spec: &TableSpec) -> Result<()> {
    if spec.schema.index_of("message").is_err() {
        return Ok(());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    for field in spec.schema.fields().iter().filter(|f| !matches!(f.name().as_str(), "subject" | "message" | ALERT_ID))
    {
        let name = field.name();
        let lower = name.to_ascii_lowercase();
        let reserved = lower.starts_with("aws.") || lower.starts_with("amazon.");
        let dots = name.starts_with('.') || name.ends_with('.') || name.contains("..");
        if name.len() > 256 || !name.chars().all(allowed) || reserved || dots {
            return Err(Error::config(format!(
                "table '{}': '{name}' cannot be the name of a message attribute",
                spec.name
            ))
            .hint("letters, digits, '_', '-' and single '.' within; not 'AWS.…'"));
        }
    }
    Ok(())
}
