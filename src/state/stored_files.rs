//! State files in a storage: written from pieces, off the runtime's threads.

use std::sync::Arc;

use super::files::{self, Packing};
use super::increments::KeptFile;
use super::manifest::StateFile;
use super::saved::PieceRows;
use crate::contracts::{Created, Error, Result, Storage, crash_point, off_the_runtime};

/// Encodes pieces and writes them under a name.
pub(super) async fn write_file(
    storage: &Arc<dyn Storage>,
    name: String,
    pieces: Vec<(u64, PieceRows)>,
) -> Result<KeptFile> {
    let rows: Vec<(u64, usize)> = pieces.iter().map(|(id, rows)| (*id, rows.num_rows())).collect();
    let encoded = off_the_runtime(move || files::encode(&pieces, Packing::Lz4)).await??;
    let pieces = rows.iter().map(|(id, _)| *id).collect();
    let all = rows.iter().map(|(_, rows)| rows).sum();
    Ok(KeptFile { file: put(storage, name, encoded, pieces).await?, batches: rows, rows: all })
}

/// Writes a file that was encoded.
pub(super) async fn put(
    storage: &Arc<dyn Storage>,
    name: String,
    encoded: files::Encoded,
    pieces: super::ranges::Ranges,
) -> Result<StateFile> {
    let bytes = encoded.content.len() as u64;
    crash_point("state_file.before");
    let created = storage.create(&name, encoded.content).await?;
    crash_point("state_file.after");
    if created == Created::Taken {
        return Err(Error::internal(format!("state file '{}/{name}' was there already", storage.place())));
    }
    Ok(StateFile { name, bytes, unpacked: encoded.unpacked, sha256: encoded.sha256, pieces })
}
