//! A proxy in front of an emulator that evaluates no policies: it answers as AWS does to a caller who may not, and notes what is
//! asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::forward::{WholeRequest, forward};

/// What the caller may do.
#[derive(Debug, Clone)]
pub(crate) enum Policy {
    AllBut(&'static str),
    Only(BTreeSet<String>),
}

impl Policy {
    fn allows(&self, action: &str) -> bool {
        match self {
            Self::AllBut(denied) => action != *denied,
            Self::Only(allowed) => allowed.contains(action),
        }
    }
}

/// A request: the IAM action that it needs, its first line, and its body.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) action: String,
    pub(crate) line: String,
    pub(crate) body: String,
}

/// A running proxy; it ends with the test's runtime.
pub(crate) struct Denying {
    pub(crate) endpoint: String,
    policy: Arc<Mutex<Policy>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Denying {
    pub(crate) async fn before(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let policy = Arc::new(Mutex::new(Policy::AllBut("nothing")));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (own_policy, own_asked) = (Arc::clone(&policy), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, upstream.clone(), Arc::clone(&own_policy), Arc::clone(&own_asked)));
            }
        });
        Self { endpoint, policy, asked }
    }

    /// From now on; what was asked before is forgotten.
    pub(crate) fn follow(&self, policy: Policy) {
        *self.policy.lock().unwrap() = policy;
        self.asked.lock().unwrap().clear();
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// The action of a request to any of the services.
fn action(line: &str, headers: &BTreeMap<String, String>, body: &str) -> String {
    if let Some((service, operation)) = headers.get("x-amz-target").and_then(|target| target.split_once('.')) {
        let service = match service.split('_').next() {
            Some("Kinesis") => "kinesis",
            Some("DynamoDB") => "dynamodb",
            Some("Firehose") => "firehose",
            other => panic!("{other:?}"),
        };
        return format!("{service}:{operation}");
    }
    if let Some(operation) = body.split('&').find_map(|pair| pair.strip_prefix("Action=")) {
        return format!("sns:{operation}");
    }
    let (method, rest) = line.split_once(' ').unwrap();
    let query = rest.split(' ').next().unwrap().split_once('?').map_or("", |(_, query)| query);
    let has = |name: &str| query.split('&').any(|p| p.split('=').next() == Some(name));
    match method {
        "GET" if has("list-type") => "s3:ListBucket",
        "GET" if has("uploads") => "s3:ListBucketMultipartUploads",
        "GET" => "s3:GetObject",
        "PUT" => "s3:PutObject",
        "DELETE" if has("uploadId") => "s3:AbortMultipartUpload",
        _ => panic!("{line}"),
    }
    .to_owned()
}

/// Refused, in the words of the service.
fn denial(action: &str) -> (u16, String) {
    let text = format!("User: arn:aws:iam::000000000000:user/u is not authorized to perform: {action}");
    match action.split(':').next().unwrap() {
        "s3" => {
            (403, format!("<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>{text}</Message></Error>"))
        }
        "sns" => {
            let error =
                format!("<Error><Type>Sender</Type><Code>AuthorizationError</Code><Message>{text}</Message></Error>");
            (403, format!("<ErrorResponse>{error}<RequestId>R1</RequestId></ErrorResponse>"))
        }
        _ => (400, format!("{{\"__type\":\"AccessDeniedException\",\"message\":\"{text}\"}}")),
    }
}

async fn serve(
    mut client: TcpStream,
    upstream: String,
    policy: Arc<Mutex<Policy>>,
    asked: Arc<Mutex<Vec<Asked>>>,
) -> Option<()> {
    let request = WholeRequest::read(&mut client).await?;
    let body = String::from_utf8_lossy(&request.bytes[request.body..]).into_owned();
    let action = action(&request.line, &request.headers, &body);
    let line = request.line.clone();
    asked.lock().unwrap().push(Asked { action: action.clone(), line, body });
    if !policy.lock().unwrap().allows(&action) {
        let (status, body) = denial(&action);
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        client.write_all(answer.as_bytes()).await.ok()?;
        return client.shutdown().await.ok();
    }
    let answer = forward(&upstream, &request.bytes).await?;
    client.write_all(&answer).await.ok()?;
    client.shutdown().await.ok()
}
