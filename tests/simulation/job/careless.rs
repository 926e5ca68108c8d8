//! A place for checkpoints and the epoch log that is careless with reference tables, with time or with who has had what, as no program should be.

use std::collections::BTreeSet;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tidemill::contracts::{Created, Result, Storage};
use tidemill::state::{Manifest, ObjectStorage};

use super::bug::Bug;

/// A place as one run sees it.
#[derive(Debug)]
pub(crate) struct Careless {
    inner: ObjectStorage,
    bug: Bug,
    own: Mutex<BTreeSet<String>>,
}

impl Careless {
    pub(crate) fn new(inner: ObjectStorage, bug: Bug) -> Self {
        Self { inner, bug, own: Mutex::default() }
    }

    /// With the bug, the name of a version says nothing but what is in it.
    fn name(&self, name: &str) -> String {
        let parts: Vec<&str> = name.rsplitn(4, '-').collect();
        match (&parts[..], self.bug) {
            ([parts, part, digest, _], Bug::NamesVersionsByContent) if name.starts_with("references/") => {
                format!("references/0-all-{digest}-{part}-{parts}")
            }
            _ => name.to_owned(),
        }
    }
}

/// A log object that does not say which versions its epochs had; its checksums are right again.
fn without_versions(object: &[u8]) -> Bytes {
    let text = std::str::from_utf8(object).expect("a log is text");
    let line = |line: &str| {
        // The first is a nonce.
        let Some((_, json)) = line.split_once(' ') else { return format!("{line}\n") };
        let mut entry: serde_json::Value = serde_json::from_str(json).expect("JSON");
        if let Some(cut) = entry.get_mut("cut").and_then(|cut| cut.as_object_mut()) {
            cut.remove("references");
        }
        let json = entry.to_string();
        let digest: String = Sha256::digest(json.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{digest} {json}\n")
    };
    text.lines().map(line).collect::<String>().into()
}

/// A manifest that does not say how far time had come, of each split and of the table.
fn without_watermarks(object: &[u8], name: &str) -> Bytes {
    let mut manifest = Manifest::parse(object, name).expect("a whole one");
    for table in manifest.tables.values_mut() {
        table.floor = i64::MIN;
        table.splits.values_mut().for_each(|split| split.watermark_ms = i64::MIN);
    }
    manifest.text().expect("JSON").into()
}

/// A manifest as a program would read it that gives all records to all queries.
fn without_catching_up(object: &[u8], name: &str) -> Bytes {
    let mut manifest = Manifest::parse(object, name).expect("a whole one");
    if let Some(reread) = &mut manifest.reread
        && reread.catch_up.take().is_some()
    {
        manifest.tables = reread.tables.clone();
        manifest.reread = None;
    }
    manifest.text().expect("JSON").into()
}

#[async_trait]
impl Storage for Careless {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn create(&self, name: &str, content: Bytes) -> Result<Created> {
        self.own.lock().expect("no panic while it is held").insert(name.to_owned());
        self.inner.create(&self.name(name), content).await
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        let content = self.inner.read(&self.name(name)).await?;
        let is_own = self.own.lock().expect("no panic while it is held").contains(name);
        let (is_log, is_manifest) = (name.starts_with("log/"), name.starts_with("manifests/"));
        Ok(content.map(|content| match self.bug {
            Bug::ForgetsVersions if is_log && !is_own => without_versions(&content),
            Bug::ForgetsWatermarks if is_manifest => without_watermarks(&content, name),
            Bug::ForgetsWhoCatchesUp if is_manifest => without_catching_up(&content, name),
            _ => content,
        }))
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.inner.list(folder).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.inner.remove(&self.name(name)).await
    }
}
