//! AWS as the program's own sinks see it: an HTTP client for the official SDK, behind it the simulated network, and behind that
//! the services, as far as the program asks them.
//!
//! ```text
//!  KinesisSource, AwsLookup, LeaseTable,
//!  AwsTableSink, AwsTopicSink,
//!  AwsStreamSink, AwsDeliverySink ─ SDK ──────┐
//!  FileSink, FileErrorOutput ─ object_store ─ FarAws ─ Machine::call (lost, late, doubled; the machine stands still, is cut off)
//!                                                       └─ kinesis | fan_out | puts | dynamodb | sns | s3   (throttled, failing, part of a batch left over)
//! ```

mod dynamodb;
mod fan_out;
mod kinesis;
mod puts;
mod s3;
mod sns;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_dynamodb::config::{AsyncSleep, SharedAsyncSleep, Sleep};
use aws_smithy_async::time::StaticTimeSource;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use serde_json::{Value, json};
use tidemill::connectors::Calling;

pub(crate) use dynamodb::{LEASES, LEDGER, Tables};
pub(crate) use fan_out::Consumers;
pub(crate) use s3::Bucket;

use super::bug::Bug;
use super::machine::{Far, Lost, Machine};
use super::sinks::Services;
use super::stream::Stream;
use crate::stub_topics;
use crate::world::World;

/// What a service says to one request.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    status: u16,
    body: String,
    /// Of an object, or of a part of one.
    tag: Option<String>,
}

impl Answer {
    /// With which one of the services refuses.
    fn trouble(request: &Request, status: u16, (dynamodb, sns): (&str, &str)) -> Self {
        match request {
            Request::S3(_) if status == 400 => s3::refusal(503, "SlowDown"),
            Request::S3(_) => s3::refusal(status, "InternalError"),
            Request::DynamoDb { .. } | Request::Kinesis { .. } => Self::refusal(status, dynamodb),
            Request::Sns { .. } => {
                let (status, body) = stub_topics::error(status, sns);
                Self { status, body, tag: None }
            }
        }
    }

    /// With which DynamoDB and Kinesis refuse.
    fn refusal(status: u16, code: &str) -> Self {
        Self::from((status, json!({ "__type": code, "message": code })))
    }
}

impl From<(u16, Value)> for Answer {
    fn from((status, body): (u16, Value)) -> Self {
        Self { status, body: body.to_string(), tag: None }
    }
}

/// What is asked.
#[derive(Debug, Clone)]
enum Request {
    DynamoDb {
        operation: String,
        body: Value,
    },
    /// Of Firehose, too.
    Kinesis {
        operation: String,
        body: Value,
    },
    Sns {
        form: sns::Form,
        /// When the sender last looked into the ledger for each of the alerts.
        asked: BTreeMap<String, Duration>,
        /// Tells it apart from all other requests; one that the network doubles has the same.
        number: u64,
    },
    S3(s3::Asked),
}

/// What goes wrong with a request that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Throttled,
    /// A fault of the service, before or after it has done what was asked.
    Fails {
        has_done_it: bool,
    },
    /// Something of a batch is left over.
    LeavesOver,
    /// The iterator, or the token of a listing's next page, does not hold any more.
    Expired,
}

/// The SDK's way to the services.
#[derive(Debug, Clone)]
struct FarAws {
    machine: Arc<Machine>,
    services: Arc<Services>,
    stream: Arc<Stream>,
    /// How often a request to S3 is repeated.
    retries: u32,
    bug: Option<Bug>,
    /// When the ledger was last looked into for an alert, as far as the sender knows.
    asked: Arc<Mutex<BTreeMap<String, Duration>>>,
}

impl FarAws {
    /// In a calm time, none.
    fn trouble(&self) -> Option<Trouble> {
        let nature = &self.machine.nature;
        if nature.is_calm() {
            return None;
        }
        let mut inner = nature.lock();
        let (trouble, name) = match inner.chance.below(100) {
            0 | 1 => (Trouble::Throttled, "throttled"),
            2 => (Trouble::Fails { has_done_it: false }, "failed request"),
            3 => (Trouble::Fails { has_done_it: true }, "failed answer"),
            4 => (Trouble::Expired, "expired"),
            5..=9 => (Trouble::LeavesOver, "batch with troubles"),
            _ => return None,
        };
        inner.faults.count(name);
        Some(trouble)
    }

    /// What a request of the SDK asks for.
    fn request(&self, request: &HttpRequest) -> Request {
        let body = request.body().bytes().unwrap_or_default();
        if s3::Asked::is_of(request.uri()) {
            return Request::S3(s3::Asked::new(request.method(), request.uri(), s3::Condition::None, Bytes::new()));
        }
        if let Some(target) = request.headers().get("x-amz-target") {
            let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
            let body = serde_json::from_slice(body).expect("JSON");
            return match target.starts_with("DynamoDB") {
                true => Request::DynamoDb { operation, body },
                false => Request::Kinesis { operation, body },
            };
        }
        let form = stub_topics::form(body);
        let known = self.asked.lock().expect("no panic while it is held");
        let asked = sns::ids(&form).into_iter().filter_map(|id| known.get(&id).map(|at| (id.clone(), *at)));
        Request::Sns { asked: asked.collect(), form, number: self.services.number() }
    }

    fn answer(&self, request: &Request, trouble: Option<Trouble>) -> Answer {
        let done = |leaves_over| match request {
            Request::Kinesis { operation, body } => {
                let put = puts::answer(&self.services, (operation, body), leaves_over, self.bug);
                let answer = put.or_else(|| fan_out::answer(&self.services, operation, body, self.bug));
                if let Some(answer) = answer {
                    return answer;
                }
                kinesis::answer(&self.stream, self.machine.nature.world.now_ms(), (operation, body), trouble, self.bug)
            }
            Request::DynamoDb { operation, body } => {
                dynamodb::answer(&self.services, operation, body, leaves_over, self.bug)
            }
            Request::Sns { form, asked, number } => {
                let sender = sns::Sender { asked, number: *number, renames: self.bug == Some(Bug::RenamesMessages) };
                sns::answer(&self.services, form, leaves_over, &sender)
            }
            Request::S3(asked) if leaves_over && asked.may_fail_late() => s3::refusal(200, "InternalError"),
            Request::S3(asked) => s3::answer(&self.services, asked, self.bug),
        };
        match trouble {
            None | Some(Trouble::Expired) => done(false),
            Some(Trouble::LeavesOver) => done(true),
            Some(Trouble::Throttled) => {
                Answer::trouble(request, 400, ("ProvisionedThroughputExceededException", "Throttled"))
            }
            Some(Trouble::Fails { has_done_it }) => {
                if has_done_it {
                    done(false);
                }
                Answer::trouble(request, 500, ("InternalServerError", "InternalError"))
            }
        }
    }

    /// What the sender knows by an answer.
    fn learns(&self, request: &Request, answer: &Answer, at: Duration) {
        if let Request::DynamoDb { operation, body } = request
            && operation == "BatchGetItem"
            && answer.status == 200
        {
            let ids = dynamodb::alerts(body).into_iter().map(|id| (id, at));
            self.asked.lock().expect("no panic while it is held").extend(ids);
        }
    }

    /// What is answered, and when.
    async fn ask(&self, request: Request) -> Result<(Answer, Duration), Lost> {
        let trouble = self.trouble();
        let work = {
            let (far, request) = (self.clone(), request.clone());
            move || (far.answer(&request, trouble), far.machine.nature.world.now())
        };
        let (answer, at) = self.machine.call(Far::Services, work).await?;
        self.learns(&request, &answer, at);
        Ok((answer, at))
    }

    /// The same of S3. Its clients ask again by themselves, and in their own time: these do it here, in the world's.
    async fn ask_s3(&self, asked: s3::Asked) -> Result<(Answer, Duration), Lost> {
        for retry in 0..self.retries {
            match self.ask(Request::S3(asked.clone())).await {
                Ok((answer, at)) if !s3::Asked::is_refused(&answer) => return Ok((answer, at)),
                _ => self.machine.asks_again(retry).await,
            }
        }
        self.ask(Request::S3(asked)).await
    }
}

impl HttpConnector for FarAws {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (far, request) = (self.clone(), self.request(&request));
        HttpConnectorFuture::new(async move {
            let subscribes = matches!(&request, Request::Kinesis { operation, .. } if operation == "SubscribeToShard");
            let answered = match request {
                Request::S3(asked) => far.ask_s3(asked).await,
                request => far.ask(request).await,
            };
            let (answer, at) = answered.map_err(|Lost| ConnectorError::timeout("no answer came".to_owned().into()))?;
            let status = answer.status.try_into().map_err(|e| ConnectorError::other(Box::new(e), None))?;
            let body = match answer.status {
                200 if subscribes => fan_out::events(&far, &answer),
                _ => SdkBody::from(answer.body),
            };
            let mut response = HttpResponse::new(status, body);
            let date = chrono::DateTime::from_timestamp_millis(at.as_millis() as i64).expect("a time");
            response.headers_mut().insert("date", date.format("%a, %d %b %Y %H:%M:%S GMT").to_string());
            Ok(response)
        })
    }
}

impl HttpClient for FarAws {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

/// The SDK waits in the world's time.
#[derive(Debug)]
struct Waits(Arc<World>);

impl AsyncSleep for Waits {
    fn sleep(&self, duration: Duration) -> Sleep {
        let world = Arc::clone(&self.0);
        Sleep::new(async move { world.sleep(duration).await })
    }
}

/// How a machine calls AWS. Requests to S3 are repeated so often.
pub(crate) fn calling(
    machine: &Arc<Machine>,
    services: &Arc<Services>,
    stream: &Arc<Stream>,
    retries: u32,
    bug: Option<Bug>,
) -> Calling {
    let far = FarAws {
        machine: Arc::clone(machine),
        services: Arc::clone(services),
        stream: Arc::clone(stream),
        retries,
        bug,
        asked: Arc::default(),
    };
    let objects = s3::client(far.clone());
    let sdk = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
            "simulated",
            "simulated",
            None,
            None,
            "simulation",
        )))
        .http_client(SharedHttpClient::new(far))
        .sleep_impl(SharedAsyncSleep::new(Waits(Arc::clone(&machine.nature.world))))
        // When requests are signed; nobody looks at it.
        .time_source(StaticTimeSource::new(UNIX_EPOCH + Duration::from_secs(1_770_890_400)))
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .build();
    Calling { sdk, objects }
}
