//! AWS errors for people and for retry loops: service, operation, resource, code, request id, and what to do.

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::contracts::{Error, ErrorKind, NO_CREDENTIALS, SET_THE_CLOCK};

/// A call to a service, as an error names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    /// Prefix of the IAM action, e.g. `kinesis`, `dynamodb`, `sns`, `s3`, `firehose`.
    pub(crate) service: &'static str,
    /// Name of the operation, e.g. `GetRecords`.
    pub(crate) operation: &'static str,
    /// Stream, table, topic or bucket.
    pub(crate) resource: &'a str,
}

/// What went wrong, as a retry loop needs it.
#[derive(Debug)]
pub(crate) struct AwsFailure {
    /// Code of the service (`ProvisionedThroughputExceededException`), or of the client (`Timeout`, `Connection`).
    pub(crate) code: String,
    /// Whether the same call may succeed later.
    pub(crate) retryable: bool,
    /// Whether the service asked for fewer calls.
    pub(crate) throttled: bool,
    /// Whether the service may have done what was asked although no answer came.
    pub(crate) outcome_unknown: bool,
    /// The error to show.
    pub(crate) error: Error,
}

impl AwsFailure {
    /// Whether the caller was refused.
    pub(crate) fn is_denied(&self) -> bool {
        DENIED.contains(&self.code.as_str())
    }

    /// Whether nothing says who is calling. Later it may be a metadata service that does not answer for a while; at the start it
    /// is a person who forgot.
    pub(crate) fn lacks_credentials(&self) -> bool {
        NO_PROVIDER.iter().any(|text| self.error.message().contains(text))
    }
}

impl From<AwsFailure> for Error {
    fn from(failure: AwsFailure) -> Self {
        failure.error
    }
}

/// Codes with which services say that they are called too often ("Error retries and exponential backoff in AWS",
/// and each service's list of common errors).
const THROTTLED: &[&str] = &[
    "ProvisionedThroughputExceededException",
    "ProvisionedThroughputExceeded",
    "ThrottlingException",
    "Throttling",
    "ThrottledException",
    "Throttled",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "LimitExceededException",
    "BandwidthLimitExceeded",
    "KMSThrottlingException",
    "KMSThrottling",
    "SlowDown",
    "PriorRequestNotComplete",
    "TransactionInProgressException",
];

/// Codes of faults that pass by themselves.
const PASSING: &[&str] = &[
    "InternalFailure",
    "InternalServerError",
    "InternalError",
    "InternalFailureException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "RequestTimeout",
    "RequestTimeoutException",
    CREDENTIALS_NOT_FETCHED,
    NOT_CONNECTED,
    // The next call has newer credentials, or the one after: they are asked for anew before they expire, by the clock here.
    "ExpiredTokenException",
    "ExpiredToken",
];

/// Codes with which services refuse a caller.
const DENIED: &[&str] = &["AccessDeniedException", "AccessDenied", "AuthorizationError", "AuthorizationErrorException"];

/// Codes of credentials that do not hold (any more).
const CREDENTIALS: &[&str] = &[
    "ExpiredTokenException",
    "ExpiredToken",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "MissingAuthenticationTokenException",
    "MissingAuthenticationToken",
];

/// Codes with which S3 says that a bucket is in another region.
const ELSEWHERE: &[&str] = &["PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"];

/// What the SDK says when nothing gives credentials.
const NO_PROVIDER: &[&str] = &["no providers in chain provided", "no credentials found in chain"];

/// What services say of a request that was signed too long ago, or in their future: the process stood still between signing and sending, or
/// the clock of this machine has not been set since it stood still. The next request is signed anew.
const OUT_OF_TIME: &[&str] = &["Signature expired", "Signature not yet current"];

/// Codes with which they say the same: S3, and "Common errors" of the others.
const OUT_OF_TIME_CODES: &[&str] = &["RequestTimeTooSkewed", "RequestExpired"];

/// Our own code: there was no connection, so nothing can have been done of what was to be asked.
const NOT_CONNECTED: &str = "NotConnected";

/// What hyper's client says of a connection that it could not make: no address, nobody who listens, no handshake, no time.
const NO_CONNECTION: &str = "client error (Connect)";

/// Our own code: whoever gives credentials (the metadata service, STS) has failed, and none that hold are left.
pub(super) const CREDENTIALS_NOT_FETCHED: &str = "CredentialsNotFetched";

/// What rustls says of a server whose certificate does not hold: no repetition mends that.
pub(super) const BAD_CERTIFICATE: &str = "invalid peer certificate";

/// What a code in an answer that went well in part says of the part that did not: whether it passes by itself, and whether the
/// service asked for fewer calls.
pub(crate) fn partial(code: &str) -> (bool, bool) {
    let throttled = THROTTLED.contains(&code) || code.contains("Throttl");
    (throttled || PASSING.contains(&code), throttled)
}

/// Makes an [`AwsFailure`] of what a client returned.
pub(crate) fn failure<E>(call: Call<'_>, error: &SdkError<E, HttpResponse>) -> AwsFailure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = error.raw_response().map(|r| r.status().as_u16());
    let (mut code, text, outcome_unknown) = match error {
        SdkError::ServiceError(e) => {
            let code = e.err().code().unwrap_or("").to_owned();
            let text = e.err().message().map_or_else(|| e.err().to_string(), str::to_owned);
            (code, text, false)
        }
        SdkError::TimeoutError(_) => ("Timeout".to_owned(), "no answer in time".to_owned(), true),
        SdkError::DispatchFailure(_) if chain(error).contains(BAD_CERTIFICATE) => {
            ("Certificate".to_owned(), chain(error), false)
        }
        // Of these two, nothing has left the process.
        SdkError::DispatchFailure(_) if is_of_credentials(error) => {
            (CREDENTIALS_NOT_FETCHED.to_owned(), chain(error), false)
        }
        SdkError::DispatchFailure(_) if chain(error).contains(NO_CONNECTION) => {
            (NOT_CONNECTED.to_owned(), chain(error), false)
        }
        SdkError::DispatchFailure(e) if e.is_timeout() => ("Timeout".to_owned(), chain(error), true),
        SdkError::DispatchFailure(e) if e.is_user() => ("Client".to_owned(), chain(error), false),
        SdkError::DispatchFailure(_) => ("Connection".to_owned(), chain(error), true),
        SdkError::ResponseError(_) => ("BrokenResponse".to_owned(), chain(error), true),
        _ => ("Client".to_owned(), chain(error), false),
    };
    if code.is_empty() {
        code = status.map_or_else(|| "Unknown".to_owned(), |s| format!("HTTP {s}"));
    }
    let id = error.raw_response().and_then(|r| {
        ["x-amzn-requestid", "x-amz-request-id", "x-amzn-request-id"].iter().find_map(|name| r.headers().get(*name))
    });
    shown(call, Answer { code, text, request: id.map(str::to_owned), status, outcome_unknown })
}

/// What a service, or the way to it, answered.
pub(super) struct Answer {
    pub(super) code: String,
    pub(super) text: String,
    pub(super) request: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) outcome_unknown: bool,
}

/// Sorts an answer and puts it into words.
pub(super) fn shown(call: Call<'_>, answer: Answer) -> AwsFailure {
    let Call { service, operation, resource } = call;
    let Answer { code, text, request, status, outcome_unknown } = answer;
    let throttled = THROTTLED.contains(&code.as_str()) || status == Some(429);
    let server_side = status.is_some_and(|s| s >= 500);
    let credentials = CREDENTIALS.contains(&code.as_str()) || NO_PROVIDER.iter().any(|t| text.contains(t));
    let out_of_time =
        OUT_OF_TIME_CODES.contains(&code.as_str()) || (credentials && OUT_OF_TIME.iter().any(|t| text.contains(t)));
    let retryable = throttled || outcome_unknown || server_side || out_of_time || PASSING.contains(&code.as_str());
    let outcome_unknown = outcome_unknown || server_side;
    let request = request.map_or_else(String::new, |id| format!(", request {id}"));
    let message = format!("{service}:{operation} on '{resource}' failed: {text} ({code}{request})");
    let denied = DENIED.contains(&code.as_str());
    let kind = if retryable { ErrorKind::Unavailable } else { ErrorKind::Config };
    let mut shown = Error::new(kind, message);
    if denied {
        shown = shown.hint(format!("allow the action '{}' on it (see `tidemill iam`)", action(service, operation)));
    } else if out_of_time {
        shown = shown.hint(SET_THE_CLOCK);
    } else if credentials {
        shown = shown.hint(NO_CREDENTIALS);
    } else if code == CREDENTIALS_NOT_FETCHED {
        shown = shown.hint("they are asked for again; if that lasts, check the metadata service, or the role and STS");
    } else if code.contains("NotFound") || code == "NoSuchBucket" {
        shown = shown.hint("check its name, the region and the account, or make it with `tidemill provision`");
    } else if ELSEWHERE.contains(&code.as_str()) {
        shown = shown
            .hint("it is in another region than the one that was asked: set AWS_REGION or the option 'aws.region'");
    } else if throttled {
        shown = shown.hint("it was retried; raise the capacity of the resource, or lower the load");
    } else if code == "Certificate" {
        shown = shown.hint(
            "if a proxy of yours is between, name its authority's certificate in AWS_CA_BUNDLE; else check the clock",
        );
    } else if code == "Connection" || code == NOT_CONNECTED {
        shown = shown.hint("check the network, the region and the endpoint (AWS_ENDPOINT_URL, 'aws.endpoint')");
    }
    AwsFailure { code, retryable, throttled, outcome_unknown, error: shown }
}

/// The IAM action that allows an operation. They have the same name but for S3's ("Actions, resources, and condition
/// keys for Amazon S3").
fn action(service: &str, operation: &str) -> String {
    let name = match (service, operation) {
        ("s3", "ListObjectsV2" | "HeadBucket") => "ListBucket",
        ("s3", "ListMultipartUploads") => "ListBucketMultipartUploads",
        ("s3", "HeadObject") => "GetObject",
        ("s3", "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload") => "PutObject",
        (_, name) => name,
    };
    format!("{service}:{name}")
}

/// Whether a request was not made because nothing gave credentials for it.
fn is_of_credentials(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<CredentialsError>() || error.source().is_some_and(is_of_credentials)
}

/// An error with all its causes, without repeating any.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use aws_sdk_sns::operation::publish_batch::PublishBatchError;
    use aws_smithy_runtime_api::client::result::ConnectorError;

    use super::*;

    const CALL: Call<'static> = Call { service: "sns", operation: "PublishBatch", resource: "alerts" };

    /// Somebody who stood still, or whose clock did, signs the next request in time; nobody else's signature gets right by itself.
    #[test]
    fn a_signature_that_is_out_of_time_passes_and_a_wrong_one_does_not() {
        let expired =
            "Signature expired: 20260212T100000Z is now earlier than 20260212T100500Z (20260212T101000Z - 5 min.)";
        let early = "Signature not yet current: 20260212T103000Z is still later than 20260212T100500Z";
        let skewed = "The difference between the request time and the current time is too large.";
        let wrong = "The request signature we calculated does not match the signature you provided.";
        for (code, text, passes) in [
            ("InvalidSignatureException", expired, true),
            ("InvalidSignatureException", early, true),
            ("SignatureDoesNotMatch", expired, true),
            ("RequestTimeTooSkewed", skewed, true),
            ("InvalidSignatureException", wrong, false),
            ("SignatureDoesNotMatch", wrong, false),
        ] {
            let (code, text) = (code.to_owned(), text.to_owned());
            let failure = shown(CALL, Answer { code, text, request: None, status: Some(403), outcome_unknown: false });
            let hint = failure.error.hint_text().unwrap_or_default();
            assert_eq!((failure.retryable, hint.contains("clock")), (passes, passes), "{}", failure.error);
            assert!(!failure.outcome_unknown, "nothing was done");
        }
    }

    /// What was never asked is known not to be done.
    #[test]
    fn without_credentials_nothing_was_asked() {
        let lacking = || CredentialsError::not_loaded("no providers in chain provided credentials");
        let away = || CredentialsError::provider_error("the metadata service does not answer");
        for (error, lacks) in [(lacking(), true), (away(), false)] {
            let error: SdkError<PublishBatchError, HttpResponse> =
                SdkError::dispatch_failure(ConnectorError::other(error.into(), None));
            let failure = failure(CALL, &error);
            assert!(failure.retryable && !failure.outcome_unknown, "{}", failure.error);
            assert_eq!(failure.lacks_credentials(), lacks, "{}", failure.error);
        }
        let lost: SdkError<PublishBatchError, HttpResponse> =
            SdkError::dispatch_failure(ConnectorError::io("connection reset".into()));
        assert!(failure(CALL, &lost).outcome_unknown, "it may have been done");
    }
}
