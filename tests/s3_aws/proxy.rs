//! A proxy in front of an emulator: it notes every request, and does to some what a network or a busy service does.

use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::forward::{WholeRequest, forward};

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// `/bucket/key`, as it was sent.
    pub(crate) path: String,
    pub(crate) query: String,
    /// It is to be done only if the object is still the one that the sender knows.
    pub(crate) if_match: bool,
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It is not passed on; this is the answer.
    Answer(u16, &'static str),
    /// It is passed on, and its answer is lost.
    LoseAnswer,
    /// Only half of the answer arrives.
    HalfAnswer,
    /// It is not passed on, and the connection is closed.
    Close,
    /// It is passed on once a request of this method, whose path contains this, has come.
    HoldUntil(&'static str, &'static str),
}

struct Rule {
    method: &'static str,
    part: &'static str,
    times: usize,
    fault: Fault,
}

#[derive(Clone, Default)]
struct Shared {
    rules: Arc<Mutex<Vec<Rule>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A running proxy; it ends with the test's runtime.
pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    shared: Shared,
}

impl Proxy {
    pub(crate) async fn before(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let shared = Shared::default();
        let own = shared.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, upstream.clone(), own.clone()));
            }
        });
        Self { endpoint, shared }
    }

    /// The next `times` requests of this method whose path and query contain `part`.
    pub(crate) fn next(&self, times: usize, method: &'static str, part: &'static str, fault: Fault) {
        self.shared.rules.lock().unwrap().push(Rule { method, part, times, fault });
    }

    /// Nothing goes wrong any more.
    pub(crate) fn mend(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// Faults that have not been met yet.
    pub(crate) fn left(&self) -> usize {
        self.shared.rules.lock().unwrap().iter().map(|rule| rule.times).sum()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }
}

#[expect(clippy::disallowed_methods, reason = "a test waits for another process")]
async fn wait_a_moment() {
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
}

async fn serve(mut client: TcpStream, upstream: String, shared: Shared) -> Option<()> {
    let request = WholeRequest::read(&mut client).await?;
    let line = &request.line;
    let (method, target) = line.split_once(' ')?;
    let target = target.split(' ').next()?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let if_match = request.headers.contains_key("if-match");
    let seen = Seen { method: method.to_owned(), path: path.to_owned(), query: query.to_owned(), if_match };
    shared.seen.lock().unwrap().push(seen);
    let fault = {
        let mut rules = shared.rules.lock().unwrap();
        let rule = rules.iter_mut().find(|r| r.times > 0 && line.starts_with(r.method) && line.contains(r.part));
        rule.map(|rule| {
            rule.times -= 1;
            rule.fault.clone()
        })
    };
    if let Some(Fault::Close) = fault {
        return None;
    }
    if let Some(Fault::HoldUntil(method, part)) = fault {
        let has_come = |seen: &Seen| seen.method == method && seen.path.contains(part);
        while !shared.seen.lock().unwrap().iter().any(has_come) {
            wait_a_moment().await;
        }
    }
    if let Some(Fault::Answer(status, code)) = fault {
        let body = format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as the test wants it</Message><RequestId>R1</RequestId></Error>"
        );
        let answer = format!(
            "HTTP/1.1 {status} X\r\nx-amz-request-id: R1\r\ncontent-type: application/xml\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        client.write_all(answer.as_bytes()).await.ok()?;
        return client.shutdown().await.ok();
    }
    let mut answer = forward(&upstream, &request.bytes).await?;
    match fault {
        Some(Fault::LoseAnswer) => return None,
        Some(Fault::HalfAnswer) => answer.truncate(answer.len() / 2),
        _ => {}
    }
    client.write_all(&answer).await.ok()?;
    client.shutdown().await.ok()
}
