//! A session's credentials: kept, asked for again before they expire, and used to their end while whoever gives them does not answer. Also in
//! the form that `object_store` takes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use crate::contracts::Clock;

/// They are asked for again this long before they expire, and at least this often.
const MARGIN_MS: i64 = 5 * 60_000;
const AGE_MS: i64 = 10 * 60_000;
/// And no sooner than this after they were asked for, while the old ones hold: ten times within the margin.
const AGAIN_MS: i64 = 30_000;

/// How long whoever gives them may take. A role is assumed within a second; a process that asks for them may ask others itself.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// What errors say when there are none, though there might be a moment later.
pub(super) const NOT_FETCHED: &str = "credentials could not be fetched";

/// Credentials of a provider. Nobody waits for new ones while the old ones hold.
#[derive(Clone)]
pub(super) struct HeldCredentials {
    inner: Arc<Inner>,
}

struct Inner {
    provider: SharedCredentialsProvider,
    clock: Arc<dyn Clock>,
    last: Mutex<Option<Held>>,
    /// Of those who wait, one asks. What went wrong then, if something did.
    turn: tokio::sync::Mutex<Option<String>>,
    /// How often it was asked for in a turn.
    asked: AtomicU64,
}

/// The last ones; times in milliseconds since 1970.
struct Held {
    credentials: Credentials,
    /// When they are asked for again.
    renew_ms: i64,
    expires_ms: i64,
}

impl Held {
    fn new(credentials: Credentials, now_ms: i64) -> Self {
        let expires = credentials.expiry().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let expires_ms = expires.and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(i64::MAX);
        // An instance is given the same ones again until shortly before their end.
        let renew_ms = expires_ms.saturating_sub(MARGIN_MS).clamp(now_ms + AGAIN_MS, now_ms + AGE_MS);
        Self { credentials, renew_ms, expires_ms }
    }
}

impl HeldCredentials {
    /// Nothing is asked for yet.
    pub(super) fn new(provider: SharedCredentialsProvider, clock: Arc<dyn Clock>) -> Self {
        let (last, turn, asked) = (Mutex::default(), tokio::sync::Mutex::default(), AtomicU64::default());
        Self { inner: Arc::new(Inner { provider, clock, last, turn, asked }) }
    }

    async fn get(&self) -> Result<Credentials, CredentialsError> {
        if let Some(held) = self.held() {
            return Ok(held);
        }
        let asked = self.inner.asked.load(Ordering::Acquire);
        let mut failed = self.inner.turn.lock().await;
        // Whoever has waited finds what the one before has got, or why it has not.
        if let Some(held) = self.held() {
            return Ok(held);
        }
        match &*failed {
            Some(text) if self.inner.asked.load(Ordering::Acquire) > asked => {
                return Err(CredentialsError::provider_error(text.clone()));
            }
            _ => {}
        }
        let answer = self.inner.ask().await;
        *failed = answer.as_ref().err().map(|error| super::errors::chain(error));
        self.inner.asked.fetch_add(1, Ordering::Release);
        answer
    }

    /// The last ones, if they hold. When it is time to ask for others, that is done beside.
    fn held(&self) -> Option<Credentials> {
        let now_ms = self.inner.clock.now_ms();
        let mut last = self.inner.last.lock().unwrap_or_else(PoisonError::into_inner);
        let held = last.as_mut().filter(|held| now_ms < held.expires_ms)?;
        if now_ms >= held.renew_ms {
            held.renew_ms = now_ms + AGAIN_MS;
            let inner = Arc::clone(&self.inner);
            tokio::spawn(async move {
                if let Err(error) = inner.ask().await {
                    tracing::warn!("{NOT_FETCHED}, and the old ones are used on: {}", super::errors::chain(&error));
                }
            });
        }
        Some(held.credentials.clone())
    }
}

impl Inner {
    async fn ask(&self) -> Result<Credentials, CredentialsError> {
        let found = tokio::select! {
            found = self.provider.provide_credentials() => found?,
            () = self.clock.sleep(LIMIT) => return Err(CredentialsError::provider_timed_out(LIMIT)),
        };
        let held = Held::new(found.clone(), self.clock.now_ms());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
        Ok(found)
    }
}

impl fmt::Debug for HeldCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeldCredentials")
    }
}

impl ProvideCredentials for HeldCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.get())
    }
}

/// Credentials of a session, for `object_store`.
pub(super) struct ObjectCredentials(pub(super) SharedCredentialsProvider);

impl fmt::Debug for ObjectCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObjectCredentials")
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
impl CredentialProvider for ObjectCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let found = self.0.provide_credentials().await.map_err(failed)?;
        Ok(Arc::new(AwsCredential {
            key_id: found.access_key_id().to_owned(),
            secret_key: found.secret_access_key().to_owned(),
            token: found.session_token().map(str::to_owned),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::contracts::ManualClock;

    /// Answers what a test has put there; `None` never.
    #[derive(Debug)]
    struct Answers(Mutex<VecDeque<Option<Result<Credentials, CredentialsError>>>>);

    impl ProvideCredentials for Answers {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let next = self.0.lock().expect("no test panics with it").pop_front();
            match next.expect("it is asked as often as the test says") {
                Some(answer) => future::ProvideCredentials::ready(answer),
                None => future::ProvideCredentials::new(std::future::pending()),
            }
        }
    }

    fn answering(
        answers: impl IntoIterator<Item = Option<Result<Credentials, CredentialsError>>>,
    ) -> SharedCredentialsProvider {
        SharedCredentialsProvider::new(Answers(Mutex::new(answers.into_iter().collect())))
    }

    fn key(name: &str, expires_ms: u64) -> Option<Result<Credentials, CredentialsError>> {
        let expires = UNIX_EPOCH + Duration::from_millis(expires_ms);
        Some(Ok(Credentials::new(name, "secret", None, Some(expires), "test")))
    }

    fn busy() -> Option<Result<Credentials, CredentialsError>> {
        Some(Err(CredentialsError::provider_error("503 of the metadata service")))
    }

    const MINUTE: u64 = 60_000;

    #[tokio::test]
    async fn old_ones_are_used_while_they_hold_and_asked_for_again_beside() {
        let answers = [
            key("one", 8 * MINUTE),
            busy(),
            None,
            key("two", 20 * MINUTE),
            busy(),
            busy(),
            busy(),
            key("three", 99 * MINUTE),
        ];
        let clock = Arc::new(ManualClock::new(0));
        let held = HeldCredentials::new(answering(answers), clock.clone());
        let mut now = 0;
        for (at_ms, used) in [
            (0, Some("one")),
            (2 * MINUTE, Some("one")),
            // Five minutes before its end it is asked for anew, in vain, and not at once again.
            (3 * MINUTE, Some("one")),
            (3 * MINUTE + 29_999, Some("one")),
            // Nobody waits for what is not answered.
            (3 * MINUTE + 30_000, Some("one")),
            (4 * MINUTE, Some("one")),
            (4 * MINUTE + 1, Some("two")),
            // In vain once more, for longer than it holds.
            (14 * MINUTE + 1, Some("two")),
            (19 * MINUTE, Some("two")),
            (20 * MINUTE, None),
            (20 * MINUTE + 1, Some("three")),
        ] {
            clock.advance(Duration::from_millis(at_ms - now));
            now = at_ms;
            match (held.provide_credentials().await, used) {
                (Ok(found), Some(used)) => assert_eq!(found.access_key_id(), used, "at {at_ms}"),
                (Err(error), None) => assert!(super::super::errors::chain(&error).contains("503"), "{error}"),
                (other, used) => panic!("at {at_ms}: {other:?} instead of {used:?}"),
            }
            // What is done beside comes to its end, or waits.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn who_has_none_waits_for_a_while_and_all_ask_once() {
        let clock = Arc::new(ManualClock::new(0));
        let held = HeldCredentials::new(answering([None, key("one", 60 * MINUTE)]), clock.clone());
        let asks = || {
            tokio::spawn({
                let held = held.clone();
                async move { held.provide_credentials().await }
            })
        };
        let (first, second) = (asks(), asks());
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!first.is_finished() && !second.is_finished());
        clock.advance(LIMIT);
        let error = first.await.expect("it ran").expect_err("there was no answer");
        assert!(matches!(error, CredentialsError::ProviderTimedOut(_)), "{error:?}");
        second.await.expect("it ran").expect_err("it does not wait as long once more");
        assert_eq!(held.provide_credentials().await.expect("it is asked again").access_key_id(), "one");
        assert_eq!(held.provide_credentials().await.expect("it is kept").access_key_id(), "one");
    }

    #[tokio::test]
    async fn that_there_are_none_is_no_fault_that_passes() {
        let lacking = Some(Err(CredentialsError::not_loaded("no providers in chain provided credentials")));
        let credentials = ObjectCredentials(answering([lacking, busy()]));
        let error = credentials.get_credential().await.expect_err("there are none");
        assert!(matches!(error, object_store::Error::Unauthenticated { .. }), "{error}");
        let error = credentials.get_credential().await.expect_err("busy");
        assert!(matches!(error, object_store::Error::Generic { .. }), "{error}");
        assert!(error.to_string().contains(NOT_FETCHED), "{error}");
    }
}
