//! A storage in memory, so that hundreds of thousands of damaged checkpoints cost no disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use tidemill::contracts::{Created, Result, Storage};

/// Objects by name.
#[derive(Debug, Default)]
pub(crate) struct Memory(pub(crate) Mutex<BTreeMap<String, Bytes>>);

impl Memory {
    /// Every file below `folder`.
    pub(crate) fn of_folder(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        fn walk(top: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                match entry.path() {
                    path if path.is_dir() => walk(top, &path, found),
                    path => {
                        let name = path.strip_prefix(top).unwrap().to_string_lossy().into_owned();
                        found.insert(name, std::fs::read(&path).unwrap());
                    }
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(folder, folder, &mut found);
        found
    }

    pub(crate) fn with(files: &BTreeMap<String, Vec<u8>>) -> Self {
        Self(Mutex::new(files.iter().map(|(name, content)| (name.clone(), content.clone().into())).collect()))
    }

    pub(crate) fn put(&self, name: &str, content: impl Into<Bytes>) {
        self.0.lock().unwrap().insert(name.to_owned(), content.into());
    }
}

#[async_trait]
impl Storage for Memory {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    async fn create(&self, name: &str, content: Bytes) -> Result<Created> {
        let mut objects = self.0.lock().unwrap();
        let stored = objects.entry(name.to_owned()).or_insert_with(|| content.clone());
        Ok(if *stored == content { Created::New } else { Created::Taken })
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        Ok(self.0.lock().unwrap().get(name).cloned())
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let prefix = format!("{folder}/");
        let objects = self.0.lock().unwrap();
        let below = objects.keys().filter(|name| name.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('/')));
        Ok(below.cloned().collect())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.0.lock().unwrap().remove(name);
        Ok(())
    }
}
