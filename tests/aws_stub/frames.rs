//! Frames of an event stream.

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use serde_json::Value;

/// A frame of the kind `event` or `exception`; the header with that name says which one it is.
fn frame(kind: &str, name_header: &'static str, name: &str, payload: &Value) -> Vec<u8> {
    let text = |s: &str| HeaderValue::String(s.to_owned().into());
    let message = Message::new(payload.to_string().into_bytes())
        .add_header(Header::new(":message-type", text(kind)))
        .add_header(Header::new(name_header, text(name)))
        .add_header(Header::new(":content-type", text("application/json")));
    let mut out = Vec::new();
    write_message_to(&message, &mut out).unwrap();
    out
}

pub(crate) fn event(name: &str, payload: &Value) -> Vec<u8> {
    frame("event", ":event-type", name, payload)
}

pub(crate) fn exception(name: &str, payload: &Value) -> Vec<u8> {
    frame("exception", ":exception-type", name, payload)
}
