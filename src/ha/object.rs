//! A lease in an object of a bucket, replaced on condition that its ETag is still the one that was read.
//!
//! S3 knows `If-Match` on PutObject since November 2024. A renewal is one PUT: at one each 1.6 s, 1.6 M a month.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};

use crate::contracts::{Error, Lease, LeaseStore, NO_CREDENTIALS, Result, object_key, refused_credentials};

/// See the module's description.
#[derive(Debug)]
pub struct ObjectLease {
    store: Arc<dyn ObjectStore>,
    path: Path,
    place: String,
    /// The lease that was read or written last, and its version.
    known: Mutex<Option<(Lease, UpdateVersion)>>,
}

impl ObjectLease {
    /// The lease in the object `key`; `place` is what people call it.
    pub fn new(store: Arc<dyn ObjectStore>, key: &str, place: impl Into<String>) -> Self {
        Self { store, path: object_key(key), place: place.into(), known: Mutex::default() }
    }

    fn failed(&self, what: &str, error: StoreError) -> Error {
        let message = format!("cannot {what} '{}'", self.place);
        if let Some(refused) = refused_credentials(&message, &error) {
            return refused.caused_by(error);
        }
        match &error {
            StoreError::Unauthenticated { .. } => Error::config(message).hint(NO_CREDENTIALS),
            StoreError::PermissionDenied { .. } => {
                Error::config(message).hint("allow s3:GetObject and s3:PutObject there")
            }
            StoreError::NotImplemented { .. } => Error::config(message)
                .hint("this storage cannot replace an object on condition: keep the lease in DynamoDB"),
            _ => Error::unavailable(message),
        }
        .caused_by(error)
    }

    fn know(&self, lease: &Lease, e_tag: Option<String>, version: Option<String>) {
        let version = UpdateVersion { e_tag, version };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((lease.clone(), version));
    }

    fn version_of(&self, lease: &Lease) -> Option<UpdateVersion> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(known, _)| known == lease).map(|(_, version)| version.clone())
    }
}

#[async_trait]
impl LeaseStore for ObjectLease {
    fn place(&self) -> String {
        self.place.clone()
    }

    async fn read(&self) -> Result<Option<Lease>> {
        let got = match self.store.get(&self.path).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            got => got.map_err(|e| self.failed("read", e))?,
        };
        let (e_tag, version) = (got.meta.e_tag.clone(), got.meta.version.clone());
        let text = got.bytes().await.map_err(|e| self.failed("read", e))?;
        let lease: Lease = serde_json::from_slice(&text).map_err(|e| {
            Error::corrupt(format!("'{}' is no lease", self.place))
                .caused_by(e)
                .hint("remove the object when no replica runs")
        })?;
        self.know(&lease, e_tag, version);
        Ok(Some(lease))
    }

    async fn replace(&self, expected: Option<&Lease>, next: &Lease) -> Result<bool> {
        let mode = match expected {
            None => PutMode::Create,
            Some(expected) => {
                if self.version_of(expected).is_none() && self.read().await?.as_ref() != Some(expected) {
                    return Ok(false);
                }
                match self.version_of(expected) {
                    Some(version) => PutMode::Update(version),
                    None => return Ok(false),
                }
            }
        };
        let text = serde_json::to_vec(next).map_err(|e| Error::internal("a lease is not JSON").caused_by(e))?;
        match self.store.put_opts(&self.path, PutPayload::from(text), PutOptions::from(mode)).await {
            Ok(put) => {
                self.know(next, put.e_tag, put.version);
                Ok(true)
            }
            // Not found: it was removed, by hand. Whether an attempt before this one was stored, the next read tells.
            Err(StoreError::Precondition { .. } | StoreError::AlreadyExists { .. } | StoreError::NotFound { .. }) => {
                Ok(false)
            }
            Err(error) => Err(self.failed("write", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::contracts::ErrorKind;

    #[test]
    fn who_is_not_known_is_told_from_who_may_not() {
        let lease = ObjectLease::new(Arc::new(InMemory::new()), "lease", "s3://b/lease");
        let denied = |code: &str| {
            let answer = format!("403 Forbidden: <Error><Code>{code}</Code></Error>");
            StoreError::PermissionDenied { path: "lease".to_owned(), source: answer.into() }
        };
        let expired = "400 Bad Request: <Error><Code>ExpiredToken</Code></Error>";
        let nobody = "no providers in chain provided credentials";
        for (error, kind, hint) in [
            (denied("AccessDenied"), ErrorKind::Config, "allow s3:GetObject"),
            (denied("InvalidAccessKeyId"), ErrorKind::Config, "credentials are missing"),
            (denied("RequestTimeTooSkewed"), ErrorKind::Unavailable, "set the clock of this machine"),
            (
                StoreError::Unauthenticated { path: String::new(), source: nobody.into() },
                ErrorKind::Config,
                "are missing",
            ),
            (StoreError::Generic { store: "S3", source: expired.into() }, ErrorKind::Unavailable, "have expired"),
        ] {
            let error = lease.failed("write", error);
            assert!(error.kind() == kind && error.hint_text().is_some_and(|text| text.contains(hint)), "{error}");
        }
    }
}
