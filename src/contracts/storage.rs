//! A durable place for whole, named objects: a folder of this machine, or a prefix of a bucket.
//!
//! Checkpoints and the epoch log are kept there. What they need of it is little, and it is all that makes them safe: an
//! object is whole or not there, and of two writers that create the same name, one wins.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;

use super::epoch_log::{OpenedLog, SeenLog};
use super::error::Result;

/// A key of a bucket as `object_store` has it. It is taken as it is: `Path::from` would escape some characters, and write to another place than
/// the one that was named. (What no key can have is left to it.)
pub fn object_key(key: &str) -> Path {
    Path::parse(key).unwrap_or_else(|_| Path::from(key))
}

/// What became of [`Storage::create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object is there, with this content.
    New,
    /// Another object has the name.
    Taken,
}

/// Objects by name. Names are relative, of letters, digits and `-_.`, with `/` between folders.
///
/// # Contract
/// - When `create` has answered `New`, the object survives a crash of process and machine, and every reader sees it whole.
/// - `create` never changes an object. The same content under the same name again is `New`, so that a lost answer is no
///   failure; content that must not be taken for another's carries a nonce.
/// - `list` and `read` see every object whose `create` has returned before they were called.
#[async_trait]
pub trait Storage: Send + Sync + fmt::Debug {
    /// Where it is, for people.
    fn place(&self) -> String;

    /// Makes an object, unless there is another of this name.
    async fn create(&self, name: &str, content: Bytes) -> Result<Created>;

    /// The content of an object; `None` when it is not there.
    async fn read(&self, name: &str) -> Result<Option<Bytes>>;

    /// Names of the objects in `folder`, not of those in folders below it, in no order.
    async fn list(&self, folder: &str) -> Result<Vec<String>>;

    /// Removes an object; one that is not there is no error.
    async fn remove(&self, name: &str) -> Result<()>;
}

/// A storage that one run has at a time: the one that has its epoch log open.
#[async_trait]
pub trait LockedStorage: Storage {
    /// Opens the epoch log, makes it if it is not there, and answers its entries. What runs that have died left half written is
    /// removed; with `anew`, so are states of versions that this program does not read.
    ///
    /// # Errors
    /// `fenced` while another run has it. Damage is no error here: see [`OpenedLog::damage`].
    async fn open_log(&self, anew: bool) -> Result<OpenedLog>;

    /// Reads the epoch log. Changes nothing, and needs no right to.
    async fn see_log(&self) -> Result<SeenLog>;
}
