//! S3: objects, uploads that become objects when they are completed, and what is noted of both.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::BodyExt;
use object_store::client::{
    HttpClient as ObjectsClient, HttpError, HttpErrorKind, HttpRequest as ObjectRequest,
    HttpResponse as ObjectResponse, HttpResponseBody, HttpService,
};
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use tidemill::contracts::xxh64;

use super::{Answer, FarAws};
use crate::job::bug::Bug;
use crate::job::machine::Lost;
use crate::job::sinks::{Row, Services, plain, rows};
use crate::stub_topics;

/// The bucket, whose name requests have in their host.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, Upload>,
    /// Uploads so far.
    begun: u64,
}

/// One that is not completed.
#[derive(Debug)]
struct Upload {
    key: String,
    parts: BTreeMap<u32, Bytes>,
    /// Whether somebody who does not fail any more knows of it.
    is_known: bool,
}

/// What must be true of an object, so that it is put.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    None,
    NotThere,
    /// It has this tag.
    Is(String),
}

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    method: String,
    /// Of an object; empty for the bucket.
    key: String,
    query: BTreeMap<String, String>,
    condition: Condition,
    body: Bytes,
}

impl Asked {
    pub(super) fn new(method: &str, uri: &str, condition: Condition, body: Bytes) -> Self {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let path = path.split_once("://").map_or(path, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
        let key = Path::from_url_path(path).expect("a key").to_string();
        let query: String =
            query.split('&').map(|pair| format!("{pair}{}&", if pair.contains('=') { "" } else { "=" })).collect();
        Self { method: method.to_owned(), key, query: stub_topics::form(query.as_bytes()), condition, body }
    }

    /// Whether uri is one of S3.
    pub(super) fn is_of(uri: &str) -> bool {
        uri.split('/').nth(2).is_some_and(|host| host.contains(".s3."))
    }

    fn get(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// Whether an answer is one that its client asks again after.
    pub(super) fn is_refused(answer: &Answer) -> bool {
        answer.status >= 500 || (answer.status == 200 && answer.body.contains("<Error>"))
    }

    /// Whether an answer to it may have an error in its body, though its status says that all is well.
    pub(super) fn may_fail_late(&self) -> bool {
        self.method == "POST" && self.query.contains_key("uploadId")
    }
}

/// With which S3 refuses.
pub(super) fn refusal(status: u16, code: &str) -> Answer {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>");
    Answer { status, body, tag: None }
}

fn done(body: String) -> Answer {
    Answer { status: 200, body, tag: None }
}

impl Bucket {
    /// All objects whose keys begin with `prefix`.
    fn below(&self, prefix: &str) -> impl Iterator<Item = (&String, &Bytes)> {
        self.objects.iter().filter(move |(key, _)| key.starts_with(prefix))
    }

    /// Rows of a table's files.
    pub(crate) fn rows(&self, table: &str) -> Vec<Row> {
        self.below(&format!("{table}/")).flat_map(|(key, content)| rows_of(key, content)).collect()
    }

    /// Lines of objects below `prefix`.
    pub(crate) fn lines(&self, prefix: &str) -> Vec<Value> {
        let text = |content: &Bytes| String::from_utf8(content.to_vec()).expect("text");
        let all: Vec<String> = self.below(prefix).map(|(_, content)| text(content)).collect();
        all.iter().flat_map(|text| text.lines()).map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Uploads that a run has seen that did not fail, and that are neither completed nor aborted.
    pub(crate) fn left_over(&self) -> Vec<String> {
        let left = self.uploads.values().filter(|upload| upload.is_known);
        left.map(|upload| upload.key.clone()).collect()
    }

    fn find(&self, asked: &Asked) -> Answer {
        let most = asked.get("max-keys").parse().unwrap_or(1_000);
        let found = self.below(asked.get("prefix")).take(most).map(|(key, content)| {
            format!("<Contents><Key>{key}</Key><Size>{}</Size><ETag>t</ETag></Contents>", content.len())
        });
        done(format!(
            "<ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>",
            found.collect::<String>()
        ))
    }

    fn unfinished(&mut self, asked: &Asked, is_calm: bool) -> Answer {
        let uploads = self.uploads.iter_mut().filter(|(_, upload)| upload.key.starts_with(asked.get("prefix")));
        let uploads = uploads.map(|(id, upload)| {
            upload.is_known |= is_calm;
            format!("<Upload><Key>{}</Key><UploadId>{id}</UploadId></Upload>", upload.key)
        });
        done(format!(
            "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{}</ListMultipartUploadsResult>",
            uploads.collect::<String>()
        ))
    }

    fn begin(&mut self, asked: &Asked) -> Answer {
        // A request that arrives twice begins two.
        self.begun += 1;
        let id = format!("upload-{}", self.begun);
        self.uploads.insert(id.clone(), Upload { key: asked.key.clone(), parts: BTreeMap::new(), is_known: false });
        done(format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"))
    }

    fn add(&mut self, asked: &Asked) -> Answer {
        let Some(upload) = self.uploads.get_mut(asked.get("uploadId")) else { return refusal(404, "NoSuchUpload") };
        let number = asked.get("partNumber").parse().expect("a number");
        upload.parts.insert(number, asked.body.clone());
        Answer { status: 200, body: String::new(), tag: Some(tag(&asked.body)) }
    }

    /// Answers what stood there before, too.
    fn complete(&mut self, asked: &Asked) -> (Answer, Option<Bytes>) {
        let id = asked.get("uploadId");
        let Some(upload) = self.uploads.remove(id) else { return (refusal(404, "NoSuchUpload"), None) };
        let text = String::from_utf8(asked.body.to_vec()).expect("XML");
        let tags = text.split("<ETag>").skip(1).filter_map(|rest| rest.split('<').next());
        let wanted: Vec<String> = tags.map(|tag| tag.replace("&quot;", "\"")).collect();
        if wanted != upload.parts.values().map(tag).collect::<Vec<_>>() {
            self.uploads.insert(id.to_owned(), upload);
            return (refusal(400, "InvalidPart"), None);
        }
        let content = upload.parts.values().flatten().copied().collect();
        let before = self.objects.insert(upload.key, content);
        let done = done("<CompleteMultipartUploadResult><ETag>t</ETag></CompleteMultipartUploadResult>".to_owned());
        (done, before)
    }

    fn abort(&mut self, asked: &Asked) -> Answer {
        let Some(_) = self.uploads.remove(asked.get("uploadId")) else { return refusal(404, "NoSuchUpload") };
        Answer { status: 204, body: String::new(), tag: None }
    }

    fn put(&mut self, asked: &Asked) -> Answer {
        let there = self.objects.get(&asked.key);
        let is_met = match &asked.condition {
            Condition::None => true,
            Condition::NotThere => there.is_none(),
            Condition::Is(wanted) => there.is_some_and(|content| tag(content) == *wanted),
        };
        if !is_met {
            return refusal(412, "PreconditionFailed");
        }
        self.objects.insert(asked.key.clone(), asked.body.clone());
        Answer { status: 200, body: String::new(), tag: Some(tag(&asked.body)) }
    }
}

/// Of a part.
fn tag(content: &Bytes) -> String {
    format!("\"{:016x}\"", xxh64(content))
}

/// Rows of a file. Columns by which files are in folders stand in its key.
fn rows_of(key: &str, content: &Bytes) -> Vec<Row> {
    let mut found = match key.ends_with(".parquet") {
        true => {
            let reader = ParquetRecordBatchReaderBuilder::try_new(content.clone()).expect("Parquet").build();
            reader.expect("Parquet").flat_map(|batch| rows(&batch.expect("Parquet"))).collect()
        }
        false => {
            let text = std::str::from_utf8(content).expect("text");
            let row = |line| {
                let columns: BTreeMap<String, Value> = serde_json::from_str(line).expect("JSON");
                columns.into_iter().map(|(name, value)| (name, plain(&value))).collect::<Row>()
            };
            text.lines().map(row).collect::<Vec<_>>()
        }
    };
    let of_folders = key.split('/').filter_map(|folder| folder.split_once('='));
    for (name, value) in of_folders {
        found.iter_mut().for_each(|row: &mut Row| drop(row.insert(name.to_owned(), value.to_owned())));
    }
    found
}

/// Does what is asked.
pub(super) fn answer(services: &Services, asked: &Asked, bug: Option<Bug>) -> Answer {
    let mut bucket = services.bucket.lock().expect("no panic while it is held");
    let has = |name: &str| asked.query.contains_key(name);
    match asked.method.as_str() {
        // Late requests of a time that was not calm have come.
        "GET" if has("uploads") => bucket.unfinished(asked, services.nature.has_been_calm()),
        "GET" => bucket.find(asked),
        "POST" if has("uploads") => bucket.begin(asked),
        "POST" if bug == Some(Bug::LosesUploads) && services.nature.lock().chance.percent(12) => {
            bucket.uploads.remove(asked.get("uploadId"));
            done("<CompleteMultipartUploadResult><ETag>t</ETag></CompleteMultipartUploadResult>".to_owned())
        }
        "POST" => {
            let (answer, before) = bucket.complete(asked);
            if before.is_some() {
                services.nature.lock().problems.push(format!("'{}' was written over", asked.key));
            }
            services.nature.lock().faults.count_if(answer.status == 404, "completed before");
            answer
        }
        "DELETE" => {
            let answer = bucket.abort(asked);
            services.nature.lock().faults.count_if(answer.status == 204, "aborted upload");
            answer
        }
        _ if has("uploadId") => {
            let answer = bucket.add(asked);
            if bug == Some(Bug::ShowsUploads) && answer.status == 200 {
                let content = bucket.uploads[asked.get("uploadId")].parts.values().flatten().copied().collect();
                bucket.objects.insert(asked.key.clone(), content);
            }
            services.nature.lock().faults.count_if(answer.status == 404, "part of an aborted upload");
            answer
        }
        _ => bucket.put(asked),
    }
}

/// A client for objects.
pub(super) fn client(far: FarAws) -> ObjectsClient {
    ObjectsClient::new(far)
}

#[async_trait]
impl HttpService for FarAws {
    async fn call(&self, request: ObjectRequest) -> Result<ObjectResponse, HttpError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes());
        let body = body.map_err(|e| HttpError::new(HttpErrorKind::Request, e))?;
        let tag = head.headers.get("if-match").and_then(|tag| tag.to_str().ok());
        let condition = match tag {
            Some(tag) => Condition::Is(tag.to_owned()),
            None if head.headers.contains_key("if-none-match") => Condition::NotThere,
            None => Condition::None,
        };
        let asked = Asked::new(head.method.as_str(), &head.uri.to_string(), condition, body);
        let answered = self.ask_s3(asked).await;
        let (answer, _) =
            answered.map_err(|Lost| HttpError::new(HttpErrorKind::Timeout, std::io::Error::other("no answer came")))?;
        let mut response = ObjectResponse::new(HttpResponseBody::from(answer.body));
        *response.status_mut() = answer.status.try_into().expect("a status");
        if let Some(tag) = answer.tag {
            response.headers_mut().insert("etag", tag.parse().expect("a header"));
        }
        Ok(response)
    }
}
