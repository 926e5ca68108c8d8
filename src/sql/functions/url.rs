//! PARSE_URL as `java.net.URL` splits, URL_ENCODE and URL_DECODE as forms do (`application/x-www-form-urlencoded`).

use arrow::array::ArrayRef;
use datafusion::common::Result;

use super::function::{Call, Definition, Nulls, Returns, define};

pub(crate) const DEFINITIONS: &[Definition] = &[
    define("parse_url", "ss[s", Returns::Text, Nulls::Possible, parse_url),
    define("url_encode", "s", Returns::Text, Nulls::Propagate, url_encode),
    define("url_decode", "s", Returns::Text, Nulls::Possible, url_decode),
];

/// The protocols that Java opens, and so the only ones that it takes for a URL.
const PROTOCOLS: &[&str] = &["http", "https", "ftp", "file", "jar", "mailto"];

/// A URL's parts; borrowed from its text.
struct Url<'a> {
    protocol: &'a str,
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
    fragment: Option<&'a str>,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Option<Url<'a>> {
        let (protocol, rest) = text.trim().split_once(':')?;
        if !PROTOCOLS.iter().any(|known| protocol.eq_ignore_ascii_case(known)) {
            return None;
        }
        let (rest, fragment) = cut(rest, '#');
        let (rest, query) = cut(rest, '?');
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => {
                let end = rest.find('/').unwrap_or(rest.len());
                (Some(&rest[..end]), &rest[end..])
            }
            None => (None, rest),
        };
        let port = authority.and_then(|authority| authority.rsplit_once(':')).map(|(_, port)| port);
        if port.is_some_and(|port| !port.ends_with(']') && !port.is_empty() && port.parse::<u32>().is_err()) {
            return None;
        }
        Some(Url { protocol, authority, path, query, fragment })
    }

    fn part(&self, name: &str) -> Option<String> {
        let user = self.authority.and_then(|authority| authority.rsplit_once('@'));
        match name {
            "HOST" => {
                let host = user.map_or(self.authority?, |(_, host)| host);
                let end = if host.starts_with('[') { host.find(']').map_or(host.len(), |end| end + 1) } else { host.find(':').unwrap_or(host.len()) };
                Some(host[..end].to_string())
            }
            "PATH" => Some(self.path.to_string()),
            "QUERY" => self.query.map(str::to_string),
            "REF" => self.fragment.map(str::to_string),
            "PROTOCOL" => Some(self.protocol.to_ascii_lowercase()),
            "FILE" => Some(match self.query {
                Some(query) => format!("{}?{query}", self.path),
                None => self.path.to_string(),
            }),
            "AUTHORITY" => self.authority.map(str::to_string),
            "USERINFO" => user.map(|(user, _)| user.to_string()),
            _ => None,
        }
    }
}

fn cut(text: &str, sign: char) -> (&str, Option<&str>) {
    text.split_once(sign).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// `PARSE_URL(url, part[, key])`; a key picks one value of QUERY.
fn parse_url(call: &Call) -> Result<ArrayRef> {
    let (texts, parts) = (call.strings(0)?, call.strings(1)?);
    let keys = if call.has(2) { Some(call.strings(2)?) } else { None };
    call.text(|row| {
        let url = Url::parse(texts.get(row)?)?;
        let part = parts.get(row)?;
        let Some(keys) = &keys else { return url.part(part) };
        let key = keys.get(row)?;
        if part != "QUERY" {
            return None;
        }
        let mut pairs = url.query?.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| value.to_string())
    })
}

fn url_encode(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    call.text(|row| {
        let mut out = String::new();
        for byte in texts.get(row)?.bytes() {
            match byte {
                b' ' => out.push('+'),
                byte if byte.is_ascii_alphanumeric() || b"*-_.".contains(&byte) => out.push(char::from(byte)),
                byte => {
                    out.push('%');
                    out.push_str(&super::encoding::hex_digits(&[byte], true));
                }
            }
        }
        Some(out)
    })
}

/// NULL for a `%` without two digits.
fn url_decode(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    call.text(|row| {
        let mut bytes = texts.get(row)?.bytes();
        let mut out = vec![];
        while let Some(byte) = bytes.next() {
            out.push(match byte {
                b'+' => b' ',
                b'%' => {
                    let mut digit = || char::from(bytes.next()?).to_digit(16);
                    (digit()? * 16 + digit()?) as u8
                }
                byte => byte,
            });
        }
        Some(String::from_utf8_lossy(&out).into_owned())
    })
}
