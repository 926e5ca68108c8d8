//! Our own stand-in for what no emulator of AWS does: retention, expired shards, throttling by quota, partial failures,
//! fan-out on closed shards, cut answers. A small HTTP server on a free loopback port that speaks Kinesis' JSON protocol
//! and does what a test tells it to.
//!
//! It is strict where AWS is (quotas, tokens, iterators of other streams), so that a client that is sloppy fails here; and
//! it counts calls. `tests/kinesis_aws/stub.rs` tests the stub itself.

mod frames;
pub(crate) mod kinesis;
mod ops;
mod push;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::emulators_of_aws::{Emulator, nghttpx};
use crate::http::{Reply, Request, Server, Service, now_ms};
use async_trait::async_trait;
use kinesis::StubStream;

/// With this variable of the environment, stubs stand behind TLS and HTTP/2: the folder of the certificate.
pub(crate) const BEHIND_TLS: &str = "TIDEMILL_STUB_BEHIND_TLS";

/// What goes wrong instead of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// An error of the service: status and code.
    Error(u16, &'static str),
    /// The connection is closed before anything is done.
    Closed,
    /// It is done, and the connection is closed within the answer.
    CutAnswer,
    /// It is done, and nothing is answered; the connection stays. Within an event stream: nothing more comes.
    #[allow(dead_code, reason = "the tests of the source alone ask for it")]
    Silence,
    /// It is done, and half of it is answered; the connection stays.
    #[allow(dead_code, reason = "the tests of the source alone ask for it")]
    Stall,
    /// Within an event stream: an exception.
    Exception(&'static str),
    /// Within an event stream: a frame whose checksum is wrong.
    BadFrame,
    /// Within an event stream: the connection is closed.
    CutStream,
}

/// For how long.
#[derive(Debug, Clone, Copy)]
enum Span {
    Calls(usize),
    Until(Instant),
}

/// Shared state of the stub.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) streams: BTreeMap<String, StubStream>,
    faults: BTreeMap<String, VecDeque<(Span, Fault)>>,
    calls: BTreeMap<String, u64>,
    /// Access keys that calls were signed with, and the session tokens beside them.
    pub(crate) callers: BTreeSet<(String, String)>,
    /// Reads or bytes above a shard's quota.
    pub(crate) violations: u64,
    /// Whether shards have quotas.
    pub(crate) quotas: bool,
    /// Shards in a page of ListShards.
    pub(crate) page: usize,
    /// How long an iterator holds.
    pub(crate) iterator_ms: i64,
    /// How long a subscription lasts.
    pub(crate) subscription: Duration,
    /// A second subscription within this time is refused.
    pub(crate) subscription_gap: Duration,
    /// Between two events without records.
    pub(crate) heartbeat: Duration,
    /// ListShards ignores filters, as some emulators do.
    pub(crate) ignores_filters: bool,
    /// Shards that so many of the next answers to ListShards do not name yet.
    pub(crate) unlisted: (u32, BTreeSet<String>),
    /// Answers at the end of a shard do not name its children.
    pub(crate) hides_children: bool,
    /// A sequence number whose record was trimmed is refused instead of taken as the oldest.
    pub(crate) refuses_trimmed: bool,
    /// Records of PutRecords that fail next, with this code.
    pub(crate) failing_puts: VecDeque<&'static str>,
    /// Iterators of before this one do not hold.
    pub(crate) generation: u32,
}

impl Default for State {
    fn default() -> Self {
        Self {
            streams: BTreeMap::new(),
            faults: BTreeMap::new(),
            calls: BTreeMap::new(),
            callers: BTreeSet::new(),
            violations: 0,
            quotas: true,
            page: 1_000,
            iterator_ms: 300_000,
            subscription: Duration::from_secs(300),
            subscription_gap: Duration::from_secs(5),
            // 5 s at AWS; tests wait for them.
            heartbeat: Duration::from_millis(200),
            ignores_filters: false,
            unlisted: (0, BTreeSet::new()),
            hides_children: false,
            refuses_trimmed: false,
            failing_puts: VecDeque::new(),
            generation: 0,
        }
    }
}

impl State {
    /// The next thing that goes wrong with this operation.
    fn fault(&mut self, operation: &str) -> Option<Fault> {
        let queue = self.faults.get_mut(operation)?;
        loop {
            match queue.front_mut()? {
                (Span::Calls(0), _) => {}
                (Span::Calls(left), fault) => {
                    *left -= 1;
                    return Some(fault.clone());
                }
                (Span::Until(until), fault) if Instant::now() < *until => return Some(fault.clone()),
                (Span::Until(_), _) => {}
            }
            queue.pop_front();
        }
    }
}

/// A running stub.
#[derive(Debug, Clone)]
pub(crate) struct AwsStub {
    state: Arc<Mutex<State>>,
    offset_ms: Arc<AtomicI64>,
    server: Arc<Server>,
    /// TLS and HTTP/2 before it, where asked for.
    front: Option<Arc<Emulator>>,
}

impl AwsStub {
    /// Starts on a free port of the loopback interface.
    pub(crate) async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let offset_ms = Arc::new(AtomicI64::new(0));
        let (shared, offset) = (Arc::clone(&state), Arc::clone(&offset_ms));
        let server = Server::start(Arc::new(Front { state: shared, offset_ms: offset })).await;
        let front = match std::env::var_os(BEHIND_TLS) {
            Some(folder) => nghttpx(server.port(), Path::new(&folder)).await.map(Arc::new),
            None => None,
        };
        Self { state, offset_ms, server: Arc::new(server), front }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.front.as_ref().map_or_else(|| self.server.url(), |front| front.endpoint.clone())
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Milliseconds since 1970, by the stub's clock.
    pub(crate) fn now_ms(&self) -> i64 {
        now_ms() + self.offset_ms.load(Ordering::SeqCst)
    }

    /// Moves the stub's clock.
    pub(crate) fn set_offset(&self, ms: i64) {
        self.offset_ms.store(ms, Ordering::SeqCst);
    }

    /// The next `calls` of an operation fail.
    pub(crate) fn fail(&self, operation: &str, calls: usize, fault: Fault) {
        self.state().faults.entry(operation.to_owned()).or_default().push_back((Span::Calls(calls), fault));
    }

    /// An operation fails for a while.
    pub(crate) fn fail_for(&self, operation: &str, time: Duration, fault: Fault) {
        let until = Span::Until(Instant::now() + time);
        self.state().faults.entry(operation.to_owned()).or_default().push_back((until, fault));
    }

    /// Nothing fails any more.
    #[allow(dead_code, reason = "the tests of the source alone ask for it")]
    pub(crate) fn mend(&self) {
        self.state().faults.clear();
    }

    /// Faults that no call has met yet, of those with a number.
    pub(crate) fn faults_left(&self) -> usize {
        let left = |(span, _): &(Span, Fault)| if let Span::Calls(left) = span { *left } else { 0 };
        self.state().faults.values().flatten().map(left).sum()
    }

    /// Calls of an operation so far, failed ones too.
    pub(crate) fn calls(&self, operation: &str) -> u64 {
        self.state().calls.get(operation).copied().unwrap_or(0)
    }

    pub(crate) fn create(&self, stream: &str, shards: usize) {
        let now = self.now_ms();
        self.state().streams.insert(stream.to_owned(), StubStream::new(stream, shards, now));
    }

    /// Runs `f` on a stream.
    pub(crate) fn with<T>(&self, stream: &str, f: impl FnOnce(&mut StubStream) -> T) -> T {
        f(self.state().streams.get_mut(stream).expect("the stream exists"))
    }

    /// Puts a record; answers its shard and sequence number.
    pub(crate) fn put(&self, stream: &str, key: &str, data: &str) -> (String, String) {
        let now = self.now_ms();
        self.with(stream, |s| s.put(key, None, data.as_bytes(), now))
    }

    /// Splits a shard in the middle.
    pub(crate) fn split(&self, stream: &str, shard: &str) -> (String, String) {
        let now = self.now_ms();
        self.with(stream, |s| s.split(shard, None, now))
    }

    /// Merges two adjacent shards.
    pub(crate) fn merge(&self, stream: &str, shard: &str, adjacent: &str) -> String {
        let now = self.now_ms();
        self.with(stream, |s| s.merge(shard, adjacent, now))
    }
}

/// What stands behind the port.
struct Front {
    state: Arc<Mutex<State>>,
    offset_ms: Arc<AtomicI64>,
}

#[async_trait]
impl Service for Front {
    async fn answer(&self, request: Request) -> Reply {
        let operation = match request.target() {
            Some(("Kinesis_20131202", operation)) => operation.to_owned(),
            _ => String::new(),
        };
        let fault = {
            let mut state = self.state.lock().unwrap();
            *state.calls.entry(operation.clone()).or_default() += 1;
            let header = |name: &str| request.headers.get(name).map_or("", String::as_str);
            let signer = header("authorization").split("Credential=").nth(1).and_then(|c| c.split('/').next());
            let caller = (signer.unwrap_or_default().to_owned(), header("x-amz-security-token").to_owned());
            state.callers.insert(caller);
            state.fault(&operation)
        };
        let now = now_ms() + self.offset_ms.load(Ordering::SeqCst);
        let answer = || ops::answer(&self.state, now, &operation, &request.json());
        match fault {
            Some(Fault::Error(status, code)) => Reply::error(status, code, "as the test asked"),
            Some(Fault::Closed) => Reply::Cut,
            Some(Fault::CutAnswer) => answer().cut_within(),
            Some(Fault::Silence) => {
                answer();
                Reply::Silence
            }
            Some(Fault::Stall) => match answer() {
                Reply::Answer(_, body) => Reply::StallWithin(body),
                other => other,
            },
            _ => answer(),
        }
    }
}
