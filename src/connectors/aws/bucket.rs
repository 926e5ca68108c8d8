//! A bucket: an `object_store` over a table's session, and its errors in our words.
//!
//! Objects are read and written by `object_store`, which streams, retries and has uploads in parts whose ids outlive
//! the process; what it lacks (listing unfinished uploads, a first contact that names the missing right) is asked of
//! `aws-sdk-s3`. Both get credentials, region and endpoint from the same session.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use aws_smithy_types::retry::RetryConfig as SdkRetryConfig;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::{ClientOptions, RetryConfig};
use tokio::sync::OnceCell;

use crate::contracts::{Clock, Error, Result};

use super::authorities::authorities;
use super::credentials::ObjectCredentials;
use super::errors::CREDENTIALS_NOT_FETCHED;
use super::{AwsFailure, AwsSession, Call, failure};

/// Time for one request: a part of 8 MiB at 1 MB/s takes 8 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Retries of a request, with back-off, and the time in which they may start. S3 asks clients to slow down for some
/// seconds while it splits a busy prefix.
const RETRIES: usize = 8;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(15);
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
/// Attempts to reach a bucket when a run begins: pauses of 100, 200, 400 and 800 ms at most.
const START_ATTEMPTS: u32 = 5;

/// A bucket, reached when it is first needed.
#[derive(Clone)]
pub(crate) struct Bucket {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    session: AwsSession,
    clock: Arc<dyn Clock>,
    clients: OnceCell<Clients>,
}

/// The two clients of a bucket.
#[derive(Clone)]
pub(crate) struct Clients {
    /// For objects.
    pub(crate) store: Arc<AmazonS3>,
    /// For what `object_store` lacks.
    pub(crate) sdk: aws_sdk_s3::Client,
}

/// An object that was found.
#[derive(Debug, Clone)]
pub(crate) struct FoundObject {
    pub(crate) bytes: u64,
    pub(crate) modified_ms: i64,
    /// Its ETag.
    pub(crate) tag: Option<String>,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

impl Bucket {
    /// The bucket `name` in the account and region of `session`. Nothing is asked of the network yet.
    pub(crate) fn new(name: &str, session: AwsSession, clock: Arc<dyn Clock>) -> Self {
        Self { inner: Arc::new(Inner { name: name.to_owned(), session, clock, clients: OnceCell::new() }) }
    }

    /// Another bucket, reached as this one.
    pub(crate) fn sibling(&self, name: &str) -> Self {
        if name == self.inner.name {
            return self.clone();
        }
        Self::new(name, self.inner.session.clone(), Arc::clone(&self.inner.clock))
    }

    pub(crate) fn name(&self) -> &str {
        &self.inner.name
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Its clients, made at the first call.
    pub(crate) async fn clients(&self) -> Result<Clients> {
        self.inner.clients.get_or_try_init(|| self.connect()).await.cloned()
    }

    /// Its object store.
    pub(crate) async fn store(&self) -> Result<Arc<AmazonS3>> {
        Ok(self.clients().await?.store)
    }

    /// Reaches the bucket, so that a wrong name or a missing right is found before the first row.
    ///
    /// # Errors
    /// No such bucket, denied, no credentials, no network.
    pub(crate) async fn reach(&self, prefix: &str) -> Result<()> {
        let sdk = self.clients().await?.sdk;
        // Not HeadBucket: its answer has no body, so neither a code nor a reason.
        // At the start a wrong endpoint should show within seconds, and a busy service is not the end.
        let retries = sdk.config().retry_config().cloned().unwrap_or_else(patient);
        let most = retries.max_attempts().min(START_ATTEMPTS);
        let hasty = aws_sdk_s3::Config::builder().retry_config(retries.with_max_attempts(most));
        let ask = sdk.list_objects_v2().bucket(self.name()).prefix(prefix).max_keys(1).customize();
        let listed = ask.config_override(hasty).send().await;
        let call = Call { service: "s3", operation: "ListObjectsV2", resource: self.name() };
        listed.map(drop).map_err(|e| failure(call, &e).into())
    }

    /// The object of exactly this key, if there is one.
    ///
    /// Not HeadObject: where ListBucket is allowed below a prefix only, as a least-privilege policy has it, HEAD of a key
    /// that does not exist is answered with 403.
    pub(crate) async fn find(&self, key: &str) -> Result<Option<FoundObject>> {
        let sdk = self.clients().await?.sdk;
        let listed = sdk.list_objects_v2().bucket(self.name()).prefix(key).max_keys(1).send().await;
        let call = Call { service: "s3", operation: "ListObjectsV2", resource: self.name() };
        let page = listed.map_err(|e| failure(call, &e).error)?;
        // Of all keys that begin like this, it is the first.
        let object = page.contents().first().filter(|object| object.key() == Some(key));
        Ok(object.map(|object| FoundObject {
            bytes: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
            modified_ms: object.last_modified().and_then(|time| time.to_millis().ok()).unwrap_or(0),
            tag: object.e_tag().map(str::to_owned),
        }))
    }

    async fn connect(&self) -> Result<Clients> {
        let config = self.inner.session.config().await?;
        let provider = config.credentials_provider().ok_or_else(|| {
            Error::config("there are no AWS credentials")
                .hint("the AWS credentials are missing: check the profile, role or environment")
        })?;
        let region = config.region().map(ToString::to_string).unwrap_or_default();
        let path_style = self.inner.session.path_style();
        let mut settings = aws_sdk_s3::config::Builder::from(&config);
        settings.set_force_path_style(path_style);
        let objects = self.inner.session.objects();
        if objects.is_none() {
            settings.set_retry_config(Some(patient()));
        }
        let sdk = aws_sdk_s3::Client::from_conf(settings.build());
        let place = endpoint(&sdk, self.name()).await?;
        let options = ClientOptions::new().with_allow_http(place.plain_http).with_timeout(REQUEST_TIMEOUT);
        let options = match authorities()? {
            Some(authorities) => authorities.trusted_by(options),
            None => options,
        };
        let (builder, retries) = match objects {
            Some(objects) => (AmazonS3Builder::new().with_http_connector(Given(objects.clone())), 0),
            None => (AmazonS3Builder::new(), RETRIES),
        };
        let store = builder
            .with_bucket_name(self.name())
            .with_region(region)
            .with_endpoint(place.endpoint)
            .with_virtual_hosted_style_request(place.virtual_hosted)
            // Plain HTTP only where the user's endpoint says so: to an emulator or a proxy, mostly on this machine.
            .with_allow_http(place.plain_http)
            .with_credentials(Arc::new(ObjectCredentials(provider)))
            .with_client_options(options)
            .with_retry(RetryConfig { max_retries: retries, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() })
            .build()
            .map_err(|e| Error::config(format!("bucket '{}'", self.name())).caused_by(e))?;
        Ok(Clients { store: Arc::new(store), sdk })
    }
}

/// A client that is there already.
#[derive(Debug)]
struct Given(HttpClient);

impl HttpConnector for Given {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.0.clone())
    }
}

/// How the SDK retries: as often as the object store.
fn patient() -> SdkRetryConfig {
    SdkRetryConfig::standard()
        .with_max_attempts(RETRIES as u32 + 1)
        .with_initial_backoff(FIRST_BACKOFF)
        .with_max_backoff(LAST_BACKOFF)
}

/// Where requests for a bucket go.
struct Place {
    endpoint: String,
    virtual_hosted: bool,
    plain_http: bool,
}

/// Asks the SDK where it would send a request: it alone knows every rule (AWS_ENDPOINT_URL_S3, profiles' `services`
/// sections, partitions, dual stack, FIPS), and a signed URL is how it tells.
async fn endpoint(sdk: &aws_sdk_s3::Client, bucket: &str) -> Result<Place> {
    let settings = PresigningConfig::expires_in(REQUEST_TIMEOUT)
        .map_err(|e| Error::internal("settings of a signed URL").caused_by(e))?;
    let signed = sdk
        .get_object()
        .bucket(bucket)
        .key("k")
        .presigned(settings)
        .await
        .map_err(|e| Error::from(failure(Call { service: "s3", operation: "GetObject", resource: bucket }, &e)))?;
    let url = signed.uri();
    let without_query = url.split('?').next().unwrap_or(url);
    let base = without_query.strip_suffix("/k").unwrap_or(without_query);
    let path_end = format!("/{bucket}");
    let (endpoint, virtual_hosted) = match base.strip_suffix(path_end.as_str()) {
        Some(endpoint) => (endpoint, false),
        None => (base, true),
    };
    let plain_http = endpoint.starts_with("http://");
    Ok(Place { endpoint: endpoint.to_owned(), virtual_hosted, plain_http })
}

/// Makes an [`AwsFailure`] of what the object store returned for `key`.
pub(crate) fn object_failure(
    operation: &'static str,
    bucket: &Bucket,
    key: &str,
    error: &object_store::Error,
) -> AwsFailure {
    use object_store::Error as E;
    let text = super::errors::chain(error);
    let tag = |name: &str| {
        let after = text.split(&format!("<{name}>")).nth(1)?;
        after.split('<').next().filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let not_fetched = text.contains(super::credentials::NOT_FETCHED).then(|| CREDENTIALS_NOT_FETCHED.to_owned());
    let code = not_fetched.or_else(|| tag("Code")).unwrap_or_else(|| {
        let code = match error {
            E::NotFound { .. } => "NoSuchKey",
            E::PermissionDenied { .. } => "AccessDenied",
            E::Unauthenticated { .. } => "InvalidAccessKeyId",
            E::Precondition { .. } => "PreconditionFailed",
            E::AlreadyExists { .. } => "Conflict",
            E::InvalidPath { .. } => "InvalidPath",
            _ if text.contains(super::errors::BAD_CERTIFICATE) => "Certificate",
            // Not `retry_timeout: 60s`, which stands in each error that was tried again.
            _ if text.replace("retry_timeout", "").contains("timeout") || text.contains("timed out") => "Timeout",
            _ => "Connection",
        };
        code.to_owned()
    });
    let message = tag("Message").unwrap_or_else(|| text.clone());
    let resource = if key.is_empty() { bucket.name().to_owned() } else { format!("{}/{key}", bucket.name()) };
    let unknown = matches!(error, E::Generic { .. }) && code != "Certificate" && code != CREDENTIALS_NOT_FETCHED;
    super::errors::shown(
        Call { service: "s3", operation, resource: &resource },
        super::errors::Answer {
            code,
            text: message,
            request: tag("RequestId"),
            status: None,
            outcome_unknown: unknown,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::aws::AwsSessions;
    use crate::contracts::{ErrorKind, ManualClock};

    fn shown(error: &object_store::Error) -> AwsFailure {
        let session = AwsSessions::default().default_session().unwrap();
        let bucket = Bucket::new("archive", session, Arc::new(ManualClock::new(0)));
        object_failure("UploadPart", &bucket, "events/part-1", error)
    }

    /// As S3 answers, and as `object_store` wraps it.
    fn answer(code: &str, message: &str) -> Box<dyn std::error::Error + Send + Sync> {
        format!(
            "Error performing PUT https://archive.s3.amazonaws.com/events/part-1 in 9ms - Server returned non-2xx status code: \
             <?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message><RequestId>4442587FB7D0A2F9</RequestId></Error>"
        )
        .into()
    }

    #[test]
    fn a_denied_part_names_the_action_that_allows_it() {
        let path = "events/part-1".to_owned();
        let error = object_store::Error::PermissionDenied { path, source: answer("AccessDenied", "Access Denied") };
        let failure = shown(&error);
        assert!(!failure.retryable);
        assert_eq!(
            failure.error.to_string(),
            "s3:UploadPart on 'archive/events/part-1' failed: Access Denied (AccessDenied, request 4442587FB7D0A2F9)\n  \
             hint: allow the action 's3:PutObject' on it (see `tidemill iam`)"
        );
    }

    /// A machine that stood still: its clock may be right a moment later, and no right is missing.
    #[test]
    fn a_request_that_is_out_of_time_is_not_taken_for_one_that_is_not_allowed() {
        let path = "events/part-1".to_owned();
        let text = "The difference between the request time and the current time is too large.";
        let error = object_store::Error::PermissionDenied { path, source: answer("RequestTimeTooSkewed", text) };
        let failure = shown(&error);
        assert!(failure.retryable && !failure.outcome_unknown && !failure.is_denied(), "{}", failure.error);
        assert_eq!(failure.error.kind(), ErrorKind::Unavailable);
        assert!(failure.error.hint_text().is_some_and(|hint| hint.contains("set the clock")), "{}", failure.error);
    }

    #[test]
    fn what_may_pass_is_told_from_what_will_not() {
        let slow = object_store::Error::Generic {
            store: "S3",
            source: answer("SlowDown", "Please reduce your request rate."),
        };
        assert!(shown(&slow).retryable && shown(&slow).throttled);
        assert_eq!(shown(&slow).error.kind(), ErrorKind::Unavailable);
        let cut = object_store::Error::Generic { store: "S3", source: "HTTP error: connection reset".into() };
        assert_eq!(shown(&cut).code, "Connection");
        assert!(shown(&cut).outcome_unknown);
        let retried = "in 1.2s, after 8 retries, max_retries: 8, retry_timeout: 60s - HTTP error: error sending request: client error";
        for (what, code) in [
            ("connection refused", "Connection"),
            ("operation timed out", "Timeout"),
            ("invalid peer certificate: UnknownIssuer", "Certificate"),
        ] {
            let error =
                object_store::Error::Generic { store: "S3", source: format!("{retried} (Connect): {what}").into() };
            assert_eq!(shown(&error).code, code);
        }
        let error = object_store::Error::Generic { store: "S3", source: "invalid peer certificate".into() };
        let shown = shown(&error);
        assert!(!shown.retryable && shown.error.to_string().contains("AWS_CA_BUNDLE"), "{}", shown.error);
    }
}
