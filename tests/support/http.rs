//! HTTP/1.1 with keep-alive on a free loopback port: as much as the AWS SDKs use, and able to do what a server should not.
//! Both stubs stand on it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A request. Names of headers are in lower case.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Method and path with its query: `POST /`.
    #[allow(dead_code, reason = "the JSON protocols need neither")]
    pub(crate) line: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// Service and operation of the JSON protocols: `DynamoDB_20120810` and `PutItem`.
    pub(crate) fn target(&self) -> Option<(&str, &str)> {
        self.headers.get("x-amz-target")?.split_once('.')
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// What a stream of events sends next.
pub(crate) enum Part {
    Bytes(Vec<u8>),
    /// The connection is closed without the end of the body.
    Cut,
}

/// What the client sees.
#[derive(Debug)]
pub(crate) enum Reply {
    Answer(u16, Vec<u8>),
    /// With a header more.
    #[allow(dead_code, reason = "only the metadata of an instance have one")]
    With(&'static str, Vec<u8>),
    /// A body that comes bit by bit.
    Stream(mpsc::Receiver<Part>),
    /// The connection ends without a word.
    Cut,
    /// The connection ends in the middle of this body.
    CutWithin(Vec<u8>),
    /// Nothing more comes in the middle of this body, and the connection stays.
    #[allow(dead_code, reason = "the stub of Kinesis alone does it")]
    StallWithin(Vec<u8>),
    /// Nothing ever comes, and the connection stays.
    #[allow(dead_code, reason = "the stub of Kinesis alone does it")]
    Silence,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::Answer(status, body.to_string().into_bytes())
    }

    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        Self::json(status, &json!({ "__type": code, "message": message }))
    }

    /// The same, cut off in the middle.
    pub(crate) fn cut_within(self) -> Self {
        match self {
            Self::Answer(_, body) => Self::CutWithin(body),
            other => other,
        }
    }
}

#[async_trait]
pub(crate) trait Service: Send + Sync + 'static {
    async fn answer(&self, request: Request) -> Reply;
}

/// Listens until it is dropped; its connections end with it.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(service: Arc<dyn Service>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let service = Arc::clone(&service);
                connections.spawn(async move {
                    // A client that goes away is no fault of the stub.
                    let _ = serve(socket, service.as_ref()).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, task }
    }

    #[allow(dead_code, reason = "only what stands before it asks")]
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn serve(mut socket: TcpStream, service: &dyn Service) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    socket.set_nodelay(true)?;
    while let Some(request) = read(&mut socket, &mut buffer).await? {
        match service.answer(request).await {
            Reply::Answer(status, body) => {
                let head = head(status, &json_of(body.len()));
                socket.write_all(&[head.into_bytes(), body].concat()).await?;
            }
            Reply::With(header, body) => {
                let head = head(200, &format!("{header}\r\n{}", json_of(body.len())));
                socket.write_all(&[head.into_bytes(), body].concat()).await?;
            }
            Reply::Cut => return Ok(()),
            Reply::CutWithin(body) => {
                let head = head(200, &json_of(body.len()));
                socket.write_all(&[head.as_bytes(), &body[..body.len() / 2]].concat()).await?;
                return Ok(());
            }
            Reply::StallWithin(body) => {
                let head = head(200, &json_of(body.len()));
                socket.write_all(&[head.as_bytes(), &body[..body.len() / 2]].concat()).await?;
                return gone(&mut socket).await;
            }
            Reply::Silence => return gone(&mut socket).await,
            Reply::Stream(parts) => {
                if !stream(&mut socket, parts).await? {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Waits until the client has gone.
async fn gone(socket: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = [0u8; 64];
    while socket.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Sends events until they end, as chunks; `false` when the connection is over.
async fn stream(socket: &mut TcpStream, mut parts: mpsc::Receiver<Part>) -> std::io::Result<bool> {
    let kind = "Content-Type: application/vnd.amazon.eventstream\r\nTransfer-Encoding: chunked";
    socket.write_all(head(200, kind).as_bytes()).await?;
    let mut byte = [0u8; 1];
    loop {
        tokio::select! {
            part = parts.recv() => match part {
                Some(Part::Bytes(bytes)) => {
                    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
                    chunk.extend_from_slice(&bytes);
                    chunk.extend_from_slice(b"\r\n");
                    socket.write_all(&chunk).await?;
                }
                Some(Part::Cut) => return Ok(false),
                None => break,
            },
            // The client has gone.
            read = socket.read(&mut byte) => {
                if read? == 0 {
                    return Ok(false);
                }
            }
        }
    }
    socket.write_all(b"0\r\n\r\n").await?;
    Ok(true)
}

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a stub stands for a machine elsewhere, with a clock of its own")]
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

fn json_of(length: usize) -> String {
    format!("Content-Type: application/x-amz-json-1.1\r\nContent-Length: {length}")
}

fn head(status: u16, more: &str) -> String {
    let date = chrono::DateTime::from_timestamp_millis(now_ms()).unwrap().format("%a, %d %b %Y %H:%M:%S GMT");
    format!("HTTP/1.1 {status} Stub\r\nDate: {date}\r\nx-amzn-RequestId: stub-1\r\n{more}\r\n\r\n")
}

async fn read(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Request>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        if let Ok(httparse::Status::Complete(at)) = parsed.parse(buffer) {
            let line = format!("{} {}", parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
            let text = |h: &httparse::Header<'_>| String::from_utf8_lossy(h.value).into_owned();
            let headers: BTreeMap<String, String> =
                parsed.headers.iter().map(|h| (h.name.to_ascii_lowercase(), text(h))).collect();
            let length: usize = headers.get("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
            while buffer.len() < at + length {
                if socket.read_buf(buffer).await? == 0 {
                    return Ok(None);
                }
            }
            let body = buffer[at..at + length].to_vec();
            buffer.drain(..at + length);
            return Ok(Some(Request { line, headers, body }));
        }
        if socket.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}
