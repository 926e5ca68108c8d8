//! A stub of DynamoDB, SNS and Firehose, and a proxy before real emulators of them: both do, by a script, what no emulator
//! does: throttle, leave items over, fail in part, lose a reply after the write, and apply a write that its sender has
//! given up long after later ones.

pub(crate) mod forward;
pub(crate) mod tables;
pub(crate) mod topics;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::http::{Reply, Request, Server, Service};
use forward::forward;
use tables::Tables;
use topics::Topics;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Refused with the service's code for "too often".
    Throttle,
    /// DynamoDB's conflict with a transaction.
    Conflict,
    /// The caller may not.
    #[allow(dead_code, reason = "the tests of the sinks alone need it")]
    Denied,
    /// A 500 before anything is done.
    ServerError,
    /// The connection is cut before anything is done.
    CutBefore,
    /// It is done, and the connection is cut.
    CutAfter,
    /// It is done, and a 500 is answered.
    ServerErrorAfter,
    /// The connection is cut, and it is done after so many later requests: a write from the dead.
    Late(u32),
    /// It is neither done nor answered before [`Stub::gate`] opens: a write that is on its way for long.
    #[allow(dead_code, reason = "the test of paused leaders alone needs it")]
    Held,
    /// A batch is done in its first half only.
    Partial,
    /// It is not done, and answered as if it were: a service that loses what it has acknowledged. Nothing can be exact
    /// then; it is how a test shows that it would notice.
    #[allow(dead_code, reason = "the end-to-end test alone needs it")]
    Swallowed,
}

/// Decides for each request, by its operation.
pub(crate) type Script = Box<dyn FnMut(&str) -> Fault + Send>;

/// Decides for each request, by its operation and content.
pub(crate) type RequestScript = Box<dyn FnMut(&str, &Request) -> Fault + Send>;

/// Never any fault.
pub(crate) fn calm() -> Script {
    Box::new(|_| Fault::None)
}

fn by_operation(mut script: Script) -> RequestScript {
    Box::new(move |operation, _| script(operation))
}

/// Who answers what passes the script.
enum Backend {
    Stub,
    /// An emulator on this port.
    Upstream(u16),
}

/// All services on one port.
pub(crate) struct Stub {
    pub(crate) tables: Tables,
    pub(crate) topics: Topics,
    /// Records of Firehose, and sizes of its batches.
    pub(crate) delivered: Mutex<Vec<Vec<u8>>>,
    pub(crate) deliveries: Mutex<Vec<usize>>,
    backend: Backend,
    script: Mutex<RequestScript>,
    late: Mutex<Vec<(u32, Request)>>,
    /// Whether what is held may pass.
    pub(crate) gate: watch::Sender<bool>,
    /// What was done without the client's knowing.
    pub(crate) unheard: Mutex<Vec<Request>>,
    /// Every operation, in order, with what happened to it.
    pub(crate) calls: Mutex<Vec<(String, Fault)>>,
}

/// A running stub.
pub(crate) struct Running {
    pub(crate) stub: Arc<Stub>,
    server: Server,
}

impl std::ops::Deref for Running {
    type Target = Stub;

    fn deref(&self) -> &Stub {
        &self.stub
    }
}

impl Running {
    pub(crate) async fn start(script: Script) -> Self {
        Self::with(Backend::Stub, script).await
    }

    pub(crate) async fn before(port: u16, script: Script) -> Self {
        Self::with(Backend::Upstream(port), script).await
    }

    async fn with(backend: Backend, script: Script) -> Self {
        let stub = Arc::new(Stub {
            tables: Tables::default(),
            topics: Topics::default(),
            delivered: Mutex::default(),
            deliveries: Mutex::default(),
            backend,
            script: Mutex::new(by_operation(script)),
            late: Mutex::default(),
            gate: watch::Sender::new(true),
            unheard: Mutex::default(),
            calls: Mutex::default(),
        });
        let server = Server::start(stub.clone()).await;
        Self { stub, server }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    pub(crate) fn follow(&self, script: Script) {
        self.follow_requests(by_operation(script));
    }

    pub(crate) fn follow_requests(&self, script: RequestScript) {
        *self.stub.script.lock().unwrap() = script;
    }

    /// Lets every write that is still to come come now.
    pub(crate) async fn raise_all(&self) {
        let late: Vec<Request> = self.stub.late.lock().unwrap().drain(..).map(|(_, request)| request).collect();
        for request in late {
            self.stub.perform(&request, Fault::None).await;
        }
    }

    /// How often an operation was asked for.
    pub(crate) fn count(&self, operation: &str) -> usize {
        self.stub.calls.lock().unwrap().iter().filter(|(name, _)| name == operation).count()
    }
}

fn operation(request: &Request) -> String {
    match request.target() {
        Some((_, operation)) => operation.to_owned(),
        None => topics::form(&request.body).get("Action").cloned().unwrap_or_default(),
    }
}

/// Splits a batch: what is done, and what is left over.
fn halve(request: &Request) -> (Request, Value) {
    let mut input: Value = serde_json::from_slice(&request.body).unwrap();
    let left = tables::halve(&mut input);
    let mut done = request.clone();
    done.body = serde_json::to_vec(&input).unwrap();
    (done, left)
}

impl Stub {
    /// Performs a request as it should be.
    async fn perform(&self, request: &Request, fault: Fault) -> Reply {
        if let Backend::Upstream(port) = self.backend {
            return forward(port, request).await;
        }
        match request.target() {
            Some((service, operation)) => {
                let input: Value = serde_json::from_slice(&request.body).unwrap();
                let (status, answer) = match service {
                    "Firehose_20150804" => self.firehose(operation, &input, fault),
                    _ => self.tables.perform(operation, &input),
                };
                Reply::json(status, &answer)
            }
            None => {
                let fails = |place: usize| fault == Fault::Partial && place % 2 == 1;
                let (status, answer) = self.topics.perform(&topics::form(&request.body), fails);
                Reply::Answer(status, answer.into_bytes())
            }
        }
    }

    fn firehose(&self, operation: &str, input: &Value, fault: Fault) -> (u16, Value) {
        if operation == "DescribeDeliveryStream" {
            let name = &input["DeliveryStreamName"];
            let description = json!({
                "DeliveryStreamName": name, "DeliveryStreamARN": "arn", "DeliveryStreamStatus": "ACTIVE",
                "DeliveryStreamType": "DirectPut", "VersionId": "1", "Destinations": [], "HasMoreDestinations": false
            });
            return (200, json!({ "DeliveryStreamDescription": description }));
        }
        let records = input["Records"].as_array().unwrap();
        self.deliveries.lock().unwrap().push(records.len());
        let mut answers = Vec::new();
        for (place, record) in records.iter().enumerate() {
            if fault == Fault::Partial && place % 2 == 1 {
                answers.push(json!({ "ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down." }));
            } else {
                use base64::Engine;
                let data = base64::engine::general_purpose::STANDARD.decode(record["Data"].as_str().unwrap()).unwrap();
                self.delivered.lock().unwrap().push(data);
                answers.push(json!({ "RecordId": "r" }));
            }
        }
        let failed = answers.iter().filter(|a| a["ErrorCode"].is_string()).count();
        // And an answer that says nothing of its last record, which is not stored.
        if answers.last().is_some_and(|answer| answer["ErrorCode"].is_string()) {
            answers.pop();
        }
        (200, json!({ "FailedPutCount": failed, "RequestResponses": answers }))
    }

    /// Writes whose time has come.
    async fn raise_the_dead(&self) {
        let due: Vec<Request> = {
            let mut late = self.late.lock().unwrap();
            late.iter_mut().for_each(|(left, _)| *left = left.saturating_sub(1));
            late.extract_if(.., |(left, _)| *left == 0).map(|(_, request)| request).collect()
        };
        for request in due {
            self.perform(&request, Fault::None).await;
        }
    }

    fn refuse(&self, request: &Request, status: u16, code: &str) -> Reply {
        match request.target() {
            Some(_) => Reply::error(status, code, "scripted"),
            None => Reply::Answer(status, topics::error(status, code).1.into_bytes()),
        }
    }
}

#[async_trait]
impl Service for Stub {
    async fn answer(&self, request: Request) -> Reply {
        self.raise_the_dead().await;
        let operation = operation(&request);
        let fault = (self.script.lock().unwrap())(&operation, &request);
        self.calls.lock().unwrap().push((operation.clone(), fault));
        let throttled = match request.target() {
            Some(("Firehose_20150804", _)) => "ServiceUnavailableException",
            Some(_) => "ProvisionedThroughputExceededException",
            None => "Throttled",
        };
        match fault {
            Fault::Throttle => self.refuse(&request, if request.target().is_some() { 400 } else { 429 }, throttled),
            Fault::Conflict => self.refuse(&request, 400, "TransactionConflictException"),
            Fault::Denied => self.refuse(&request, 403, "AuthorizationError"),
            Fault::ServerError => self.refuse(&request, 500, "InternalServerError"),
            Fault::CutBefore => Reply::Cut,
            Fault::Swallowed => Reply::json(200, &json!({})),
            Fault::CutAfter => {
                self.perform(&request, fault).await;
                self.unheard.lock().unwrap().push(request);
                Reply::Cut
            }
            Fault::ServerErrorAfter => {
                self.perform(&request, fault).await;
                self.unheard.lock().unwrap().push(request.clone());
                self.refuse(&request, 500, "InternalServerError")
            }
            Fault::Held => {
                let _ = self.gate.subscribe().wait_for(|open| *open).await;
                self.perform(&request, fault).await
            }
            Fault::Late(after) => {
                self.late.lock().unwrap().push((after, request));
                Reply::Cut
            }
            Fault::Partial if operation == "BatchWriteItem" => {
                let (done, left) = halve(&request);
                match self.perform(&done, fault).await {
                    Reply::Answer(200, _) => Reply::json(200, &json!({ "UnprocessedItems": left })),
                    other => other,
                }
            }
            Fault::Partial if operation == "BatchGetItem" => {
                let (done, left) = halve(&request);
                match self.perform(&done, fault).await {
                    Reply::Answer(200, body) => {
                        let mut answer: Value = serde_json::from_slice(&body).unwrap();
                        answer["UnprocessedKeys"] = left;
                        Reply::json(200, &answer)
                    }
                    other => other,
                }
            }
            Fault::None | Fault::Partial => self.perform(&request, fault).await,
        }
    }
}
