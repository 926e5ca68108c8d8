//! What connectors of AWS services share: credentials, region and endpoint of a table, errors that say what to do, and
//! calls that are repeated.
//!
//! Clients are the official `aws-sdk-*`. A table's `aws.*` options come first; what they leave open is found as every
//! AWS tool finds it (environment with `AWS_ENDPOINT_URL*`, profiles, SSO, web identity of EKS, container and instance
//! roles). TLS is rustls on ring; certificates are the system's, and those that `AWS_CA_BUNDLE` names.
//!
//! Invariant: a secret is never part of an error, of a log line or of `Debug`.

mod authorities;
mod batch_get;
mod bucket;
mod credentials;
mod errors;
mod jitter;
mod requests;
mod session;
mod string_key;
mod table_options;

pub(crate) use batch_get::batch_get;
pub(crate) use bucket::{Bucket, object_failure};
pub(crate) use errors::{AwsFailure, Call, failure, partial};
pub(crate) use jitter::Jitter;
pub(crate) use requests::{Attempt, Requests};
pub use session::Calling;
pub(crate) use session::{AwsSession, AwsSessions, endpoint_of};
pub(crate) use string_key::string_key;
pub(crate) use table_options::{check_credential, credential_keys, is_credential};
