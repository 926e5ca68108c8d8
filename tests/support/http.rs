//! HTTP/1.1 with keep-alive, as much as the SDK uses.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A request.
#[derive(Debug)]
pub(crate) struct Request {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
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

/// An answer.
pub(crate) enum Reply {
    Json(u16, Value),
    /// A body that comes bit by bit.
    Stream(mpsc::Receiver<Part>),
    /// The connection is closed.
    Close,
    /// The connection is closed in the middle of this body.
    Cut(Value),
}

impl Reply {
    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        Self::Json(status, json!({ "__type": code, "message": message }))
    }

    pub(crate) fn cut(self) -> Self {
        match self {
            Self::Json(_, body) => Self::Cut(body),
            other => other,
        }
    }
}

/// Listens until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let handler = Arc::new(handler);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let handler = Arc::clone(&handler);
                connections.spawn(async move {
                    // A client that goes away is no fault of the stub.
                    let _ = serve(socket, handler.as_ref()).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, task }
    }
}

async fn serve(mut socket: TcpStream, handler: &(dyn Fn(&Request) -> Reply + Send + Sync)) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    socket.set_nodelay(true)?;
    while let Some(request) = read(&mut socket, &mut buffer).await? {
        let reply = handler(&request);
        match reply {
            Reply::Json(status, body) => {
                let body = body.to_string();
                let head = head(
                    status,
                    &format!("Content-Type: application/x-amz-json-1.1\r\nContent-Length: {}", body.len()),
                );
                socket.write_all((head + &body).as_bytes()).await?;
            }
            Reply::Close => return Ok(()),
            Reply::Cut(body) => {
                let body = body.to_string();
                let head =
                    head(200, &format!("Content-Type: application/x-amz-json-1.1\r\nContent-Length: {}", body.len()));
                socket.write_all((head + &body[..body.len() / 2]).as_bytes()).await?;
                return Ok(());
            }
            Reply::Stream(mut parts) => {
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
                            Some(Part::Cut) => return Ok(()),
                            None => break,
                        },
                        // The client has gone.
                        read = socket.read(&mut byte) => {
                            if read? == 0 {
                                return Ok(());
                            }
                        }
                    }
                }
                socket.write_all(b"0\r\n\r\n").await?;
            }
        }
    }
    Ok(())
}

fn head(status: u16, more: &str) -> String {
    let date = chrono::DateTime::from_timestamp_millis(super::now_ms()).unwrap().format("%a, %d %b %Y %H:%M:%S GMT");
    format!("HTTP/1.1 {status} Stub\r\nDate: {date}\r\nx-amzn-RequestId: stub-1\r\n{more}\r\n\r\n")
}

async fn read(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Request>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        if let Ok(httparse::Status::Complete(at)) = parsed.parse(buffer) {
            let text = |h: &httparse::Header| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned());
            let headers: Vec<_> = parsed.headers.iter().map(text).collect();
            let length = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case("content-length"));
            let length: usize = length.and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
            while buffer.len() < at + length {
                if socket.read_buf(buffer).await? == 0 {
                    return Ok(None);
                }
            }
            let body = buffer[at..at + length].to_vec();
            buffer.drain(..at + length);
            return Ok(Some(Request { headers, body }));
        }
        if socket.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}
