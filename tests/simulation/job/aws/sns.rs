//! SNS: the stub of the sinks' own tests, and what is noted of each message.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;

use super::Answer;
use crate::job::sinks::{Services, text};

/// A request of the Query protocol: names and values.
pub(super) type Form = BTreeMap<String, String>;

/// Ids of the alerts that are published.
pub(super) fn ids(form: &Form) -> Vec<String> {
    let id = |member: usize| {
        let get = |name: String| form.get(&format!("PublishBatchRequestEntries.member.{member}.{name}"));
        let attribute = |at: usize| {
            let name = get(format!("MessageAttributes.entry.{at}.Name"))?;
            Some((name, get(format!("MessageAttributes.entry.{at}.Value.StringValue"))))
        };
        (1..).map_while(attribute).find(|(name, _)| *name == "alert_id")?.1.cloned()
    };
    (1..).map_while(id).collect()
}

/// Who publishes.
pub(super) struct Sender<'a> {
    /// When it last looked into the ledger for an alert.
    pub(super) asked: &'a BTreeMap<String, Duration>,
    /// Its request's.
    pub(super) number: u64,
    /// Whether it gives messages other ids each time, which is a fault.
    pub(super) renames: bool,
}

/// Does what is asked. With `leaves_over`, each second one of a batch fails.
pub(super) fn answer(services: &Services, form: &Form, leaves_over: bool, sender: &Sender<'_>) -> Answer {
    let mut form = form.clone();
    if sender.renames {
        let own = form.iter_mut().filter(|(name, _)| name.ends_with(".MessageDeduplicationId"));
        own.for_each(|(_, id)| *id = format!("{id}-{}", sender.number));
    }
    let fails = |place: usize| leaves_over && place % 2 == 1;
    for (_, id) in ids(&form).iter().enumerate().filter(|(place, _)| !fails(*place)) {
        services.accepted(id, sender.asked.get(id).copied(), sender.number);
    }
    let topics = &services.topics;
    topics.seconds.store(services.nature.world.now().as_secs(), Ordering::Relaxed);
    let before = topics.published.lock().expect("no panic while it is held").len();
    let (status, body) = topics.perform(&form, fails);
    let new = topics.published.lock().expect("no panic while it is held").split_off(before);
    let accepted = body.matches("<MessageId>").count();
    services.nature.lock().faults.count_many("deduplicated", (accepted - new.len()) as u64);
    for message in new {
        let columns: BTreeMap<String, Value> = serde_json::from_str(&message.message).expect("a JSON object");
        services.deliver(0, columns.into_iter().map(|(name, value)| (name, text(&value))).collect());
    }
    Answer { status, body, tag: None }
}
