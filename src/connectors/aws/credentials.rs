//! A session's credentials in the form that `object_store` takes: kept, asked for again before they expire, and used to their end
//! when whoever gives them does not answer for a while.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use tokio::sync::Mutex;

use crate::contracts::Clock;

/// They are asked for again this long before they expire, and at least this often.
const MARGIN_MS: i64 = 5 * 60_000;
const AGE_MS: i64 = 10 * 60_000;
/// And so long after a failure, while the old ones hold: nine more times within the margin.
const AGAIN_MS: i64 = 30_000;

/// What errors say when there are none, though there might be a moment later.
pub(super) const NOT_FETCHED: &str = "credentials could not be fetched";

/// Credentials from a provider.
pub(super) struct SessionCredentials {
    provider: SharedCredentialsProvider,
    clock: Arc<dyn Clock>,
    last: Mutex<Option<Cached>>,
}

/// The last ones; times in milliseconds since 1970.
struct Cached {
    credential: Arc<AwsCredential>,
    /// When they are asked for again.
    renew_ms: i64,
    expires_ms: i64,
}

impl Cached {
    fn new(found: &Credentials, now_ms: i64) -> Self {
        let expires = found.expiry().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let expires_ms = expires.and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(i64::MAX);
        let credential = Arc::new(AwsCredential {
            key_id: found.access_key_id().to_owned(),
            secret_key: found.secret_access_key().to_owned(),
            token: found.session_token().map(str::to_owned),
        });
        Self { credential, renew_ms: expires_ms.saturating_sub(MARGIN_MS).min(now_ms + AGE_MS), expires_ms }
    }
}

impl SessionCredentials {
    /// Nothing is asked for yet.
    pub(super) fn new(provider: SharedCredentialsProvider, clock: Arc<dyn Clock>) -> Self {
        Self { provider, clock, last: Mutex::new(None) }
    }
}

impl std::fmt::Debug for SessionCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionCredentials")
    }
}

/// Nobody has any, or what is set is wrong: no repetition mends that. All else may pass.
fn failed(error: CredentialsError) -> object_store::Error {
    match error {
        CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
            object_store::Error::Unauthenticated { path: String::new(), source: Box::new(error) }
        }
        _ => {
            let text = format!("{NOT_FETCHED}: {}", super::errors::chain(&error));
            object_store::Error::Generic { store: "S3", source: text.into() }
        }
    }
}

#[async_trait]
impl CredentialProvider for SessionCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let now_ms = self.clock.now_ms();
        let mut last = self.last.lock().await;
        if let Some(cached) = &*last
            && now_ms < cached.renew_ms
        {
            return Ok(Arc::clone(&cached.credential));
        }
        match (self.provider.provide_credentials().await, &mut *last) {
            (Ok(found), last) => Ok(Arc::clone(&last.insert(Cached::new(&found, now_ms)).credential)),
            (Err(error), Some(cached)) if now_ms < cached.expires_ms => {
                tracing::warn!("{NOT_FETCHED}, and the old ones are used on: {}", super::errors::chain(&error));
                cached.renew_ms = now_ms + AGAIN_MS;
                Ok(Arc::clone(&cached.credential))
            }
            (Err(error), _) => Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use aws_credential_types::provider::future;

    use super::*;
    use crate::contracts::ManualClock;

    /// Answers what a test has put there.
    #[derive(Debug)]
    struct Answers(std::sync::Mutex<VecDeque<Result<Credentials, CredentialsError>>>);

    impl ProvideCredentials for Answers {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let next = self.0.lock().expect("no test panics with it").pop_front();
            future::ProvideCredentials::ready(next.expect("it is asked as often as the test says"))
        }
    }

    fn key(name: &str, expires_ms: u64) -> Result<Credentials, CredentialsError> {
        let expires = UNIX_EPOCH + Duration::from_millis(expires_ms);
        Ok(Credentials::new(name, "secret", None, Some(expires), "test"))
    }

    fn busy() -> Result<Credentials, CredentialsError> {
        Err(CredentialsError::provider_error("503 of the metadata service"))
    }

    #[tokio::test]
    async fn old_ones_are_used_while_they_hold_and_asked_for_again() {
        const MINUTE: u64 = 60_000;
        let answers = [
            key("one", 8 * MINUTE),
            busy(),
            busy(),
            key("two", 20 * MINUTE),
            busy(),
            busy(),
            key("three", 99 * MINUTE),
        ];
        let provider = SharedCredentialsProvider::new(Answers(std::sync::Mutex::new(answers.into())));
        let clock = Arc::new(ManualClock::new(0));
        let own: Arc<dyn Clock> = clock.clone();
        let credentials = SessionCredentials::new(provider, own);
        let mut now = 0;
        for (at_ms, used) in [
            (0, Some("one")),
            (2 * MINUTE, Some("one")),
            // Five minutes before its end it is asked for anew, in vain, and not at once again.
            (3 * MINUTE, Some("one")),
            (3 * MINUTE + 29_999, Some("one")),
            (3 * MINUTE + 30_000, Some("one")),
            (4 * MINUTE, Some("two")),
            (13 * MINUTE, Some("two")),
            // In vain once more, for longer than it holds.
            (14 * MINUTE, Some("two")),
            (20 * MINUTE, None),
            (20 * MINUTE + 1, Some("three")),
        ] {
            clock.advance(Duration::from_millis(at_ms - now));
            now = at_ms;
            match (credentials.get_credential().await, used) {
                (Ok(credential), Some(used)) => assert_eq!(credential.key_id, used, "at {at_ms}"),
                (Err(error), None) => assert!(error.to_string().contains(NOT_FETCHED), "{error}"),
                (other, used) => panic!("at {at_ms}: {other:?} instead of {used:?}"),
            }
        }
    }

    #[tokio::test]
    async fn that_there_are_none_is_no_fault_that_passes() {
        let answers = [Err(CredentialsError::not_loaded("no providers in chain provided credentials")), busy()];
        let provider = SharedCredentialsProvider::new(Answers(std::sync::Mutex::new(VecDeque::from(answers))));
        let credentials = SessionCredentials::new(provider, Arc::new(ManualClock::new(0)));
        let error = credentials.get_credential().await.expect_err("there are none");
        assert!(matches!(error, object_store::Error::Unauthenticated { .. }), "{error}");
        let error = credentials.get_credential().await.expect_err("busy");
        assert!(matches!(error, object_store::Error::Generic { .. }), "{error}");
    }
}
