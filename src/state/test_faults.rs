//! An object store whose first attempt to create each object fails, before or after it has been done.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

#[derive(Debug)]
pub(super) struct Flaky {
    inner: InMemory,
    /// Whether the object is there when its answer is lost.
    done: bool,
    seen: Mutex<BTreeSet<String>>,
    faults: AtomicUsize,
}

impl Flaky {
    pub(super) fn lost_answers() -> Self {
        Self { inner: InMemory::new(), done: true, seen: Mutex::default(), faults: AtomicUsize::new(0) }
    }

    pub(super) fn refused() -> Self {
        Self { done: false, ..Self::lost_answers() }
    }

    pub(super) fn faults(&self) -> usize {
        self.faults.load(Ordering::SeqCst)
    }
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("flaky")
    }
}

#[async_trait]
impl ObjectStore for Flaky {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let first = self.seen.lock().expect("no panic").insert(location.to_string());
        if first && options.mode == PutMode::Create {
            self.faults.fetch_add(1, Ordering::SeqCst);
            if self.done {
                self.inner.put_opts(location, payload, options).await?;
                // As S3 answers the retry of a request that was done.
                let source = "the answer was lost, and the retry found the object".into();
                return Err(object_store::Error::AlreadyExists { path: location.to_string(), source });
            }
            return Err(object_store::Error::Generic { store: "S3", source: "SlowDown".into() });
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
