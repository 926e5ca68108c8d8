//! Storage below a prefix of a bucket, through `object_store`.
//!
//! `PutMode::Create` is sent once by `object_store`, and on S3 both a lost race and a busy key are answered alike. So after
//! any failure the object is read back: what stands there tells whose it is ("Decisions", 6).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::contracts::{Clock, Created, Error, NO_CREDENTIALS, Result, Storage, object_key, refused_credentials};

/// Attempts to create an object, and the pause before the second; it doubles: 0.1 + 0.2 + … + 6.4 s.
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// A prefix of a bucket.
#[derive(Debug)]
pub struct ObjectStorage {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// `s3://bucket/prefix`, for people.
    place: String,
    clock: Arc<dyn Clock>,
}

impl ObjectStorage {
    /// Objects of `store` below `prefix`; `place` is what people call it.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str, place: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self { store, prefix: object_key(prefix), place: place.into(), clock }
    }

    fn path(&self, name: &str) -> Path {
        object_key(&format!("{}/{name}", self.prefix))
    }

    fn failed(&self, what: &str, name: &str, error: object_store::Error) -> Error {
        use object_store::Error as E;
        let message = format!("cannot {what} '{}/{name}'", self.place);
        if let Some(refused) = refused_credentials(&message, &error) {
            return refused.caused_by(error);
        }
        let error_of = match &error {
            E::Unauthenticated { .. } => Error::config(message).hint(NO_CREDENTIALS),
            E::PermissionDenied { .. } => Error::config(message)
                .hint("allow s3:GetObject, s3:PutObject and s3:DeleteObject there, and s3:ListBucket on the bucket"),
            E::NotFound { .. } => Error::config(message).hint("is there such a bucket?"),
            _ => Error::unavailable(message),
        };
        error_of.caused_by(error)
    }
}

#[async_trait]
impl Storage for ObjectStorage {
    fn place(&self) -> String {
        self.place.clone()
    }

    async fn create(&self, name: &str, content: Bytes) -> Result<Created> {
        let path = self.path(name);
        let (mut pause, mut attempt) = (FIRST_PAUSE, 1);
        loop {
            let options = PutOptions::from(PutMode::Create);
            let put = self.store.put_opts(&path, PutPayload::from_bytes(content.clone()), options).await;
            let Err(error) = put else { return Ok(Created::New) };
            if let Ok(Some(found)) = self.read(name).await {
                return Ok(if found == content { Created::New } else { Created::Taken });
            }
            let error = self.failed("write", name, error);
            if attempt == ATTEMPTS || error.kind() == crate::contracts::ErrorKind::Config {
                return Err(error);
            }
            self.clock.sleep(pause).await;
            (pause, attempt) = (pause * 2, attempt + 1);
        }
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        let got = match self.store.get(&self.path(name)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            got => got.map_err(|e| self.failed("read", name, e))?,
        };
        got.bytes().await.map(Some).map_err(|e| self.failed("read", name, e))
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let path = self.path(folder);
        let below = |found: object_store::ObjectMeta| {
            // Lists are of whole prefixes: what lies in folders below is left out.
            let mut parts = found.location.prefix_match(&path)?;
            let name = parts.next()?.as_ref().to_owned();
            let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
            parts.next().is_none().then(|| format!("{prefix}{name}"))
        };
        let found: Vec<_> =
            self.store.list(Some(&path)).try_collect().await.map_err(|e| self.failed("list", folder, e))?;
        Ok(found.into_iter().filter_map(below).collect())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.failed("remove", name, e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::Error as E;
    use object_store::memory::InMemory;

    use super::*;
    use crate::contracts::{ErrorKind, ManualClock};

    /// Where people look for it, and where the policy says it is.
    #[tokio::test]
    async fn objects_have_the_keys_that_their_place_says() {
        let store = Arc::new(InMemory::new());
        let storage =
            ObjectStorage::new(Arc::clone(&store) as _, "zuüg~1/100%", "s3://b/…", Arc::new(ManualClock::new(0)));
        storage.create("log/1", Bytes::from_static(b"x")).await.expect("made");
        assert_eq!(storage.list("log").await.expect("listed"), ["log/1"]);
        let keys: Vec<_> =
            store.list(None).map_ok(|found| found.location.to_string()).try_collect().await.expect("listed");
        assert_eq!(keys, ["zuüg~1/100%/log/1"]);
        assert!(storage.read("log/1").await.expect("read").is_some());
    }

    #[test]
    fn who_is_not_known_is_told_from_who_may_not_and_from_who_gets_no_answer() {
        let storage =
            ObjectStorage::new(Arc::new(InMemory::new()), "kept", "s3://b/kept", Arc::new(ManualClock::new(0)));
        let denied = |code: &str| {
            let answer = format!("403 Forbidden: <Error><Code>{code}</Code></Error>");
            E::PermissionDenied { path: "n".to_owned(), source: answer.into() }
        };
        // As S3 answers what is wrong with a session token.
        let bad = |code: &str| {
            let answer = format!("400 Bad Request: <Error><Code>{code}</Code><Message>The token</Message></Error>");
            E::Generic { store: "S3", source: answer.into() }
        };
        let nobody =
            E::Unauthenticated { path: String::new(), source: "no providers in chain provided credentials".into() };
        let away = E::Generic { store: "S3", source: "credentials could not be fetched: 503".into() };
        for (error, kind, hint) in [
            (denied("AccessDenied"), ErrorKind::Config, "allow s3:GetObject"),
            (denied("InvalidAccessKeyId"), ErrorKind::Config, "credentials are missing"),
            (denied("SignatureDoesNotMatch"), ErrorKind::Config, "credentials are missing"),
            (denied("ExpiredToken"), ErrorKind::Unavailable, "credentials have expired"),
            (denied("RequestTimeTooSkewed"), ErrorKind::Unavailable, "set the clock of this machine"),
            (bad("ExpiredToken"), ErrorKind::Unavailable, "credentials have expired"),
            (bad("InvalidToken"), ErrorKind::Config, "credentials are missing"),
            (bad("RequestTimeout"), ErrorKind::Unavailable, ""),
            (nobody, ErrorKind::Config, "credentials are missing"),
            (away, ErrorKind::Unavailable, ""),
        ] {
            let error = storage.failed("write", "n", error);
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.hint_text().unwrap_or_default().contains(hint), "{error}");
            assert_eq!(error.hint_text().is_none(), hint.is_empty(), "{error}");
        }
    }
}
