//! To an emulator and back: what makes the stub a proxy.

use crate::forward;
use crate::http::{Reply, Request};

/// Sends a request on to `port` and gives the answer back.
pub(crate) async fn forward(port: u16, request: &Request) -> Reply {
    let mut bytes = b"POST / HTTP/1.1\r\n".to_vec();
    for (name, value) in &request.headers {
        if !matches!(name.as_str(), "connection" | "content-length") {
            bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        }
    }
    bytes.extend(format!("content-length: {}\r\n\r\n", request.body.len()).into_bytes());
    bytes.extend_from_slice(&request.body);
    let all = forward::forward(&format!("127.0.0.1:{port}"), &bytes).await.unwrap();
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
