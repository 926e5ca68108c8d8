//! Records that can be told apart, and the check that each came once and in order.

use std::collections::BTreeMap;

use crate::aws_stub::AwsStub;
use crate::run::Got;

/// Puts numbered records under a few keys.
pub(crate) struct Feed {
    to: Option<(AwsStub, String)>,
    keys: usize,
    put: BTreeMap<String, u64>,
    turn: usize,
}

impl Feed {
    pub(crate) fn new(stub: &AwsStub, stream: &str, keys: usize) -> Self {
        Self { to: Some((stub.clone(), stream.to_owned())), ..Self::detached(keys) }
    }

    /// One whose records somebody else puts.
    pub(crate) fn detached(keys: usize) -> Self {
        Self { to: None, keys, put: BTreeMap::new(), turn: 0 }
    }

    /// Key and data of the next record.
    pub(crate) fn next(&mut self) -> (String, String) {
        let key = format!("key-{}", self.turn % self.keys);
        self.turn += 1;
        let number = self.put.entry(key.clone()).or_default();
        let data = format!("{key}:{number}");
        *number += 1;
        (key, data)
    }

    pub(crate) fn put(&mut self, count: usize) {
        for _ in 0..count {
            let (key, data) = self.next();
            let (stub, stream) = self.to.as_ref().expect("a feed of a stub");
            stub.put(stream, &key, &data);
        }
    }

    /// Records put so far.
    pub(crate) fn total(&self) -> usize {
        self.put.values().sum::<u64>() as usize
    }
}

/// Every record once, and those of a key in the order in which they were put. Numbers start at 0.
pub(crate) fn assert_complete(feed: &Feed, got: &[Got]) {
    assert_from(feed, &BTreeMap::new(), got);
}

/// What a feed has put by now.
pub(crate) fn mark(feed: &Feed) -> BTreeMap<String, u64> {
    feed.put.clone()
}

/// The same for what was put after `from`.
pub(crate) fn assert_from(feed: &Feed, from: &BTreeMap<String, u64>, got: &[Got]) {
    let mut next: BTreeMap<String, u64> =
        feed.put.keys().map(|k| (k.clone(), from.get(k).copied().unwrap_or(0))).collect();
    for record in got {
        let (key, number) = record.data.split_once(':').unwrap_or_else(|| panic!("what is {:?}?", record.data));
        let expected = next.get_mut(key).expect("a key of the feed");
        assert_eq!(number.parse::<u64>().unwrap(), *expected, "key {key} in {}", record.split);
        *expected += 1;
    }
    assert_eq!(next, feed.put, "records are missing");
}
