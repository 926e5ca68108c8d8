//! Objects of S3 that grow: lines that are put again with what has been added.
//!
//! ```text
//! put  If-None-Match: *    the object is there, with the first lines      taken: the next name
//! put  If-Match: ETag      and has more of them                           changed, gone, forbidden or not known: a new object goes on
//! ```
//!
//! Without the conditions, a request that was given up and arrives late, or one of a run of the same number that stood still,
//! would put an earlier state in the place of a later one, and lines would be gone. With them some lines may come twice: a
//! request whose answer was lost has changed the object, and its repetition is refused.

use std::time::Duration;

use bytes::Bytes;
use object_store::{Error as StoreError, ObjectStore, PutMode, PutOptions, PutPayload, UpdateVersion};

use crate::connectors::aws::object_failure;
use crate::contracts::{ErrorKind, Result, refused_credentials};

use super::listing::object_path;
use super::location::Prefix;
use super::part::PartNames;

/// An object is followed by a new one at this size: it bounds what is held in memory, and sent again by a flush.
const OBJECT_BYTES: usize = 1 << 20;
/// Time in which a put is repeated, and pauses between: the object store does not repeat a conditional one whose answer is lost.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Whether no object can be put again under a condition: the role may not, or the service has no such request. (What is not found was
/// taken away: the next object can be put again. A service that fails says nothing of conditions, nor does one that asks for another
/// token, or for another time of the request.)
fn is_refused(error: &StoreError) -> bool {
    match error {
        StoreError::PermissionDenied { .. } => {
            refused_credentials("", error).is_none_or(|refused| refused.kind() != ErrorKind::Unavailable)
        }
        StoreError::Unauthenticated { .. } | StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => {
            true
        }
        StoreError::Generic { .. } => {
            let text = error.to_string();
            text.contains("501 Not Implemented") || text.contains("<Code>NotImplemented</Code>")
        }
        _ => false,
    }
}

/// Lines that go to objects below a prefix.
pub(super) struct ObjectLines {
    prefix: Prefix,
    names: PartNames,
    open: Option<OpenObject>,
    dirty: bool,
    /// Whether objects can be put again under a condition, as far as is known.
    updates: bool,
}

/// The object that is added to.
struct OpenObject {
    key: String,
    /// What it has, or is to have.
    held: Vec<u8>,
    /// The ETag of what it has, once it is there, and how many bytes of `held` that is.
    there: Option<(String, usize)>,
}

impl ObjectLines {
    pub(super) fn new(prefix: Prefix, names: PartNames) -> Self {
        Self { prefix, names, open: None, dirty: false, updates: true }
    }

    fn next_key(&self) -> String {
        self.prefix.join(&format!("errors-{}.jsonl", self.names.next()))
    }

    /// Adds lines, which [`put`](Self::put) makes durable.
    pub(super) async fn append(&mut self, text: &[u8]) -> Result<()> {
        if self.open.as_ref().is_some_and(|open| open.held.len() + text.len() > OBJECT_BYTES) {
            self.put().await?;
            self.open = None;
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => OpenObject { key: self.next_key(), held: Vec::new(), there: None },
        };
        self.open.insert(open).held.extend_from_slice(text);
        self.dirty = true;
        Ok(())
    }

    /// Makes all lines durable.
    ///
    /// # Errors
    /// The bucket cannot be reached, or does not allow it.
    pub(super) async fn put(&mut self) -> Result<()> {
        if !self.dirty {
            return Ok(());
        }
        let store = self.prefix.bucket.store().await?;
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let clock = self.prefix.bucket.clock();
        let (began, mut pause) = (clock.elapsed(), FIRST_PAUSE);
        loop {
            let mode = match &open.there {
                Some((tag, _)) => PutMode::Update(UpdateVersion { e_tag: Some(tag.clone()), version: None }),
                None => PutMode::Create,
            };
            let content = PutPayload::from(Bytes::copy_from_slice(&open.held));
            let put = store.put_opts(&object_path(&open.key)?, content, PutOptions::from(mode)).await;
            match (put, &open.there) {
                (Ok(put), _) => {
                    self.dirty = false;
                    let there = put.e_tag.filter(|_| self.updates).map(|tag| (tag, open.held.len()));
                    self.open = there.map(|there| OpenObject { there: Some(there), ..open });
                    return Ok(());
                }
                // By an earlier request of this loop, or a run of this number.
                (Err(StoreError::AlreadyExists { .. }), None) => open.key = self.next_key(),
                // The service is busy, or nobody has heard its answer.
                (Err(e @ StoreError::Generic { .. }), _)
                    if !is_refused(&e) && clock.elapsed().saturating_sub(began) < PATIENCE =>
                {
                    clock.sleep(pause).await;
                    pause = (2 * pause).min(LAST_PAUSE);
                }
                // Another one than was put, or gone; or not allowed, or not known to the service, for this run.
                (Err(e), Some((_, durable))) => {
                    self.updates &= !is_refused(&e);
                    open = OpenObject { key: self.next_key(), held: open.held.split_off(*durable), there: None };
                }
                (Err(e), None) => {
                    let failed = object_failure("PutObject", &self.prefix.bucket, &open.key, &e).error;
                    self.open = Some(open);
                    return Err(failed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else each flush makes an object of its own until the run ends.
    #[test]
    fn a_clock_that_is_wrong_for_a_while_says_nothing_of_conditions() {
        for (code, refused) in [("AccessDenied", true), ("RequestTimeTooSkewed", false), ("ExpiredToken", false)] {
            let answer = format!("403 Forbidden: <Error><Code>{code}</Code></Error>");
            let error = StoreError::PermissionDenied { path: "errors".to_owned(), source: answer.into() };
            assert_eq!(is_refused(&error), refused, "{error}");
        }
    }
}
