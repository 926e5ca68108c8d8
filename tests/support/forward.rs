//! What makes a server of a test a proxy: a whole request is read, looked at, and sent on to an emulator as it came.
//!
//! One request a connection. Signatures stay right, since the host that was signed is passed on.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request as it came.
#[allow(dead_code, reason = "not every proxy looks at all of it")]
pub(crate) struct WholeRequest {
    pub(crate) bytes: Vec<u8>,
    /// Its first line.
    pub(crate) line: String,
    /// By their names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// Where its body begins.
    pub(crate) body: usize,
}

impl WholeRequest {
    /// Reads one; `None` when the client goes away before its end.
    #[allow(dead_code, reason = "some servers have read theirs already")]
    pub(crate) async fn read(client: &mut TcpStream) -> Option<Self> {
        let mut bytes = Vec::new();
        let (body, headers) = loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut parsed = httparse::Request::new(&mut headers);
            if let Ok(httparse::Status::Complete(body)) = parsed.parse(&bytes) {
                let text = |h: &httparse::Header<'_>| String::from_utf8_lossy(h.value).into_owned();
                let headers = parsed.headers.iter().map(|h| (h.name.to_ascii_lowercase(), text(h)));
                break (body, headers.collect::<BTreeMap<_, _>>());
            }
            if client.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        let length = headers.get("content-length").map_or(0, |length| length.trim().parse::<usize>().unwrap());
        while bytes.len() < body + length {
            if client.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        }
        let line = String::from_utf8_lossy(&bytes[..bytes.iter().position(|b| *b == b'\r')?]).into_owned();
        Some(Self { bytes, line, headers, body })
    }
}

/// Sends a request on to `upstream` (`host:port`) and gives the whole answer back; `None` when nobody takes it.
pub(crate) async fn forward(upstream: &str, request: &[u8]) -> Option<Vec<u8>> {
    let mut server = TcpStream::connect(upstream).await.ok()?;
    // So that the end of the answer is the end of the connection.
    let first_line = request.iter().position(|b| *b == b'\n')? + 1;
    server.write_all(&request[..first_line]).await.ok()?;
    server.write_all(b"connection: close\r\n").await.ok()?;
    server.write_all(&request[first_line..]).await.ok()?;
    let mut answer = Vec::new();
    // An emulator may reset instead of closing; what came counts.
    let _ = server.read_to_end(&mut answer).await;
    Some(answer)
}
