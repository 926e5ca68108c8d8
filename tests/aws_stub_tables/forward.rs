//! To an emulator and back: what makes the stub a proxy.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::{Reply, Request};

/// Sends a request on to `port` and gives the answer back.
pub(crate) async fn forward(port: u16, request: &Request) -> Reply {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut head = String::from("POST / HTTP/1.1\r\n");
    for (name, value) in &request.headers {
        if !matches!(name.as_str(), "connection" | "content-length") {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str(&format!("connection: close\r\ncontent-length: {}\r\n\r\n", request.body.len()));
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&request.body).await.unwrap();
    let mut all = Vec::new();
    // An emulator may reset instead of closing; what came counts.
    let _ = stream.read_to_end(&mut all).await;
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(start)) = parsed.parse(&all) else { return Reply::Cut };
    let chunked = parsed.headers.iter().any(|h| h.name.eq_ignore_ascii_case("transfer-encoding"));
    let status = parsed.code.unwrap();
    let body = if chunked { unchunk(&all[start..]) } else { all[start..].to_vec() };
    Reply::Answer(status, body)
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(rest) {
        let size = size as usize;
        if size == 0 {
            break;
        }
        body.extend_from_slice(&rest[start..start + size]);
        rest = &rest[start + size + 2..];
    }
    body
}
