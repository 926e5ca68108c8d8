//! A storage in which something happens before a request is done: what another run, or somebody, does meanwhile; or that there is no answer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::contracts::{Created, Result, Storage};

/// A request; of one that changes something, the name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request<'a> {
    Create(&'a str),
    Read,
    List,
    Remove(&'a str),
}

type Before = dyn Fn(Request<'_>) -> BoxFuture<'static, Result<()>> + Send + Sync;

/// See the module's description.
pub(crate) struct Interrupted {
    of: Arc<dyn Storage>,
    before: Box<Before>,
}

impl Interrupted {
    /// `of`, where `happens` with each request for which it returns something.
    pub(crate) fn storage<F>(
        of: &Arc<dyn Storage>,
        happens: impl Fn(Request<'_>) -> Option<F> + Send + Sync + 'static,
    ) -> Arc<dyn Storage>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let nothing = || futures::future::ready(Ok(())).boxed();
        let before = move |request: Request<'_>| happens(request).map_or_else(nothing, FutureExt::boxed);
        Arc::new(Self { of: Arc::clone(of), before: Box::new(before) })
    }
}

/// `of`, and how many removals have been under way at a time, at most: each waits for a moment, in which others may come.
pub(crate) fn counting_removals(of: &Arc<dyn Storage>) -> (Arc<dyn Storage>, Arc<AtomicUsize>) {
    let (most, under_way) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&most);
    let storage = Interrupted::storage(of, move |request| {
        let (most, under_way) = (Arc::clone(&counted), Arc::clone(&under_way));
        matches!(request, Request::Remove(_)).then_some(async move {
            most.fetch_max(under_way.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            under_way.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        })
    });
    (storage, most)
}

impl fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of.fmt(f)
    }
}

#[async_trait]
impl Storage for Interrupted {
    fn place(&self) -> String {
        self.of.place()
    }

    async fn create(&self, name: &str, content: Bytes) -> Result<Created> {
        (self.before)(Request::Create(name)).await?;
        self.of.create(name, content).await
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        (self.before)(Request::Read).await?;
        self.of.read(name).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        (self.before)(Request::List).await?;
        self.of.list(folder).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        (self.before)(Request::Remove(name)).await?;
        self.of.remove(name).await
    }
}
