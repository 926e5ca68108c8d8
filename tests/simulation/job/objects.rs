//! An object store beyond the network: checkpoints, epoch log and lease lie there.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::FutureExt;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::bug::Bug;
use super::machine::{Far, Lost, Machine};

/// The store as one machine sees it.
#[derive(Debug, Clone)]
pub(crate) struct FarStore {
    pub(crate) inner: Arc<InMemory>,
    pub(crate) machine: Arc<Machine>,
    pub(crate) bug: Option<Bug>,
    pub(crate) silence: Option<Silence>,
    /// How often its client asks again when no answer comes. The first request may have been done: then the
    /// object that it created is in the way of the second one, as in S3.
    pub(crate) retries: u32,
    /// Whether requests to list manifests, or to remove one, stand still now and then before they leave: for so long that others take a job
    /// over meanwhile.
    pub(crate) hesitates: bool,
}

impl FarStore {
    /// A request that is about this stands still, or not.
    async fn hesitate(&self, about: Option<&Path>) {
        let nature = &self.machine.nature;
        if !self.hesitates || nature.is_calm() || !about.is_some_and(|path| path.as_ref().contains("manifests")) {
            return;
        }
        let wait_ms = {
            let mut inner = nature.lock();
            let stands_still = inner.chance.percent(15);
            inner.faults.count_if(stands_still, "hesitation");
            if stands_still { 1_000 + inner.chance.below(9_000) } else { 0 }
        };
        nature.world.sleep(Duration::from_millis(wait_ms)).await;
    }
}

/// No object with this in its name can be written for some time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Silence {
    pub(crate) of: &'static str,
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

impl fmt::Display for FarStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the simulated store")
    }
}

/// Everything below `kept/`, by its name there.
pub(crate) async fn stored(objects: &InMemory) -> BTreeMap<String, Bytes> {
    let listed: Vec<ObjectMeta> = objects.list(Some(&Path::from("kept"))).try_collect().await.expect("memory");
    let mut stored = BTreeMap::new();
    for object in listed {
        let content = objects.get_opts(&object.location, GetOptions::default()).await.expect("it was listed");
        let name = object.location.as_ref().trim_start_matches("kept/").to_owned();
        stored.insert(name, content.bytes().await.expect("memory"));
    }
    stored
}

fn lost(_: Lost) -> Error {
    Error::Generic { store: "simulated", source: "no answer".into() }
}

/// What is in memory is done at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory does not wait")
}

#[async_trait]
impl ObjectStore for FarStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (inner, location) = (Arc::clone(&self.inner), location.clone());
        let mut options = options;
        if self.bug == Some(Bug::SkipsFence) && options.mode == PutMode::Create {
            options.mode = PutMode::Overwrite;
        }
        let now_is = self.machine.nature.world.now();
        let silent = |silence: &Silence| {
            location.as_ref().contains(silence.of) && (silence.from..silence.until).contains(&now_is)
        };
        if self.silence.as_ref().is_some_and(silent) {
            self.machine.nature.lock().faults.count("silent store");
            self.machine.nature.world.sleep(Duration::from_millis(1_500)).await;
            return Err(lost(Lost));
        }
        if self.bug == Some(Bug::LosesObjects) && self.machine.nature.lock().chance.percent(3) {
            return Ok(PutResult { e_tag: None, version: None });
        }
        if self.bug == Some(Bug::AnswersEarly) && location.as_ref().contains("/log/") {
            let machine = Arc::clone(&self.machine);
            tokio::spawn(async move {
                machine.call(Far::Store, move || now(inner.put_opts(&location, payload.clone(), options.clone()))).await
            });
            return Ok(PutResult { e_tag: None, version: None });
        }
        self.machine
            .try_again(Far::Store, self.retries, move || {
                now(inner.put_opts(&location, payload.clone(), options.clone()))
            })
            .await
            .map_err(lost)?
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: self.to_string() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (inner, location) = (Arc::clone(&self.inner), location.clone());
        self.machine
            .try_again(Far::Store, self.retries, move || now(inner.get_opts(&location, options.clone())))
            .await
            .map_err(lost)?
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.bug == Some(Bug::RemovesNothing) {
            return locations;
        }
        let (inner, machine, retries) = (Arc::clone(&self.inner), Arc::clone(&self.machine), self.retries);
        // Of a request to remove that comes when the same content is in use again there is one in hundreds of seeds.
        let is_slow = self.bug == Some(Bug::NamesVersionsByContent);
        let store = self.clone();
        let remove = move |location: Result<Path>| {
            let (inner, machine, store) = (Arc::clone(&inner), Arc::clone(&machine), store.clone());
            async move {
                let location = location?;
                let one = location.clone();
                let wait_ms = if is_slow { machine.nature.lock().chance.below(9_000) } else { 0 };
                machine.nature.world.sleep(Duration::from_millis(wait_ms)).await;
                store.hesitate(Some(&location)).await;
                let removed = machine.try_again(Far::Store, retries, move || {
                    now(inner.delete_stream(futures::stream::iter([Ok(one.clone())]).boxed()).try_collect::<Vec<_>>())
                });
                removed.await.map_err(lost)??;
                Ok(location)
            }
        };
        locations.then(remove).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, machine, prefix) = (Arc::clone(&self.inner), Arc::clone(&self.machine), prefix.cloned());
        let (retries, store) = (self.retries, self.clone());
        let listed = async move {
            store.hesitate(prefix.as_ref()).await;
            let listed = machine
                .try_again(Far::Store, retries, move || now(inner.list(prefix.as_ref()).collect::<Vec<_>>()))
                .await;
            listed.unwrap_or_else(|e| vec![Err(lost(e))])
        };
        futures::stream::once(listed).flat_map(futures::stream::iter).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: self.to_string() })
    }
}
