//! Checkpoints of a real job: manifests and state files, damaged.
//!
//! Damage is found by checksums, so most cases must end with `corrupt`. A second kind of case puts the checksums right again, as
//! nobody but an attacker or a bug in the writer would: then the content may be taken or refused, but in order.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use proptest::sample::Index;
use sha2::{Digest, Sha256};
use tidemill::contracts::{Error, ErrorKind, Storage};
use tidemill::runtime::Ending;
use tidemill::state::{CheckpointStore, Manifest, SavedJob};

use crate::MOST_MIB;
use crate::bounded::{Bound, within};
use crate::change::{bits, changed, changes, check, seed};
use crate::memory::Memory;

#[path = "../support/job.rs"]
mod job;

type Files = BTreeMap<String, Vec<u8>>;

/// Every kind of state: panes, a running aggregate with dead rows, rows that wait in an open file, no state at all.
const SQL: &str = "
CREATE TABLE events (id BIGINT, k STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '2' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${IN}', 'format' = 'json');
CREATE TABLE counts (k STRING, n BIGINT, last STRING, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
CREATE TABLE minutes (window_start TIMESTAMP(3), k STRING, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = 's3://b/minutes/', 'format' = 'json', 'sink.rolling-policy.rollover-interval' = '1 h');
INSERT INTO counts SELECT k, COUNT(*), MAX(k) FROM events GROUP BY k;
INSERT INTO minutes SELECT window_start, k, COUNT(*)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, k;
";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// The files of a checkpoint that a run has left.
fn files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.sql");
        std::fs::write(&path, SQL).unwrap();
        let line = |n: u64| {
            let (minute, second) = (n / 40, n % 40);
            format!("{{\"id\":{n},\"k\":\"key {}\",\"ts\":\"2026-01-01 00:{minute:02}:{second:02}\"}}\n", n % 61)
        };
        let input = folder.path().join("events.jsonl");
        std::fs::write(&input, (0..130).map(line).collect::<String>()).unwrap();
        let parameters = BTreeMap::from([("IN".to_owned(), input.to_string_lossy().into_owned())]);
        let variant = job::Variant { rows: 30, ..job::Variant::default() };
        let local = folder.path().join("local");
        let options = job::options(path, local.clone(), parameters, variant, Ending::Once);
        runtime().block_on(job::run(&options)).unwrap();
        let files = Memory::of_folder(&local.join("checkpoints/small"));
        let count = |prefix: &str| files.keys().filter(|name| name.starts_with(prefix)).count();
        assert!(count("manifests/") > 0 && count("state/") > 2, "{:?}", files.keys());
        files
    })
}

fn newest(files: &Files) -> String {
    files.keys().rfind(|name| name.starts_with("manifests/")).unwrap().clone()
}

async fn load(storage: Arc<dyn Storage>) -> Result<Option<SavedJob>, Error> {
    let mut store = CheckpointStore::new(storage, "reader", 3);
    match store.latest().await? {
        Some(manifest) => {
            std::hint::black_box(manifest.bytes());
            store.load(&manifest).await.map(Some)
        }
        None => Ok(None),
    }
}

/// Everything of it that counts, as text.
fn shown(job: &SavedJob) -> String {
    // A buffer's own text has its address.
    let piece = |piece: &tidemill::state::StatePiece| {
        let dead = piece.dead.as_ref().map(|dead| dead.set_indices().collect::<Vec<_>>());
        format!("{} {:?} {dead:?}", piece.id, piece.rows.load().unwrap())
    };
    let states = |q: &tidemill::state::SavedQuery| -> Vec<String> {
        let all = q.operators.iter().chain(&q.unwritten);
        all.map(|s| format!("{} {:?} {:?}", s.fingerprint, s.watermark, s.pieces.iter().map(piece).collect::<Vec<_>>()))
            .collect()
    };
    let queries: Vec<String> =
        job.queries.iter().map(|(name, q)| format!("{name} {} {:?} {:?}", q.plan, states(q), q.sink)).collect();
    format!("{} {:?} {:?} {queries:?}", job.epoch, job.tables, job.reread)
}

/// The files that the newest checkpoint is made of.
fn named(files: &Files) -> Vec<String> {
    let name = newest(files);
    let manifest = Manifest::parse(&files[&name], &name).unwrap();
    let mut all: Vec<String> = manifest.files().map(|file| file.name.clone()).collect();
    all.push(name);
    all.sort();
    all.dedup();
    all
}

/// Each byte of each file of a checkpoint, a bit of it flipped, another one with another seed, and in the long run each of the eight: each
/// is found, by restoring.
#[test]
fn a_flipped_bit_in_any_byte_is_found() {
    let bound = within!(MOST_MIB);
    let files = files();
    let storage = Arc::new(Memory::with(files));
    runtime().block_on(async {
        load(storage.clone()).await.unwrap().unwrap();
        let mut flipped = 0;
        for name in named(files) {
            let whole = &files[&name];
            for at in 0..whole.len() {
                for bit in bits(at) {
                    let mut damaged = whole.clone();
                    damaged[at] ^= 1 << bit;
                    bound.note(format_args!("bit {bit} of byte {at} of {name}"));
                    storage.put(&name, damaged);
                    match load(storage.clone()).await {
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Corrupt, "bit {bit} of byte {at} of {name}: {error}")
                        }
                        Ok(_) => panic!("bit {bit} of byte {at} of {name} is not noticed"),
                    }
                    flipped += 1;
                }
            }
            storage.put(&name, whole.clone());
        }
        load(storage).await.unwrap().unwrap();
        println!("{flipped} bits in {} files, FUZZ_SEED={}", named(files).len(), seed());
        assert!(flipped > 5_000, "only {flipped} bits");
    });
}

#[test]
fn damage_is_found_or_is_none() {
    let bound = within!(MOST_MIB);
    let (files, runtime) = (files(), runtime());
    let names = named(files);
    let whole = shown(&runtime.block_on(load(Arc::new(Memory::with(files)))).unwrap().unwrap());
    let storage = Arc::new(Memory::with(files));
    check(&bound, 1_000, 2, (any::<Index>(), changes()), |(which, changes)| {
        let name = &names[which.index(names.len())];
        let damaged = changed(&files[name], &changes);
        let same = damaged == files[name];
        storage.put(name, damaged);
        let loaded = runtime.block_on(load(storage.clone()));
        storage.put(name, files[name].clone());
        match loaded {
            Err(error) => {
                prop_assert!(!same && error.kind() == ErrorKind::Corrupt, "{}", error);
                prop_assert!(error.hint_text().is_some(), "no advice: {}", error);
            }
            Ok(job) => prop_assert!(same && shown(&job.unwrap()) == whole, "damage to {} is not noticed", name),
        }
        Ok(())
    });
}

fn sealed(json: &str) -> Vec<u8> {
    let content = json.strip_suffix("\n}").unwrap_or(json);
    let digest: String = Sha256::digest(content.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{content},\n  \"checksum\": \"{digest}\"\n}}\n").into_bytes()
}

/// A manifest with another content under a right checksum.
#[test]
fn manifests_that_lie_are_taken_or_refused() {
    let bound = within!(MOST_MIB);
    let (files, runtime) = (files(), runtime());
    let name = newest(files);
    let text = String::from_utf8(files[&name].clone()).unwrap();
    let json = text.rsplit_once(",\n  \"checksum\"").unwrap().0.to_owned() + "\n}";
    assert_eq!(sealed(&json), files[&name], "the seal is the program's own");
    let storage = Arc::new(Memory::with(files));
    check(&bound, 1_500, 1, changes(), |changes| {
        let lie = String::from_utf8_lossy(&changed(json.as_bytes(), &changes)).into_owned();
        storage.put(&name, sealed(&lie));
        let _ = runtime.block_on(load(storage.clone()));
        Ok(())
    });
}

/// A state file with another content, which the manifest calls right: Arrow's reader has to cope with it.
#[test]
fn state_files_that_lie_are_taken_or_refused() {
    let bound = within!(MOST_MIB);
    let (files, runtime) = (files(), runtime());
    let name = newest(files);
    let manifest = Manifest::parse(&files[&name], &name).unwrap();
    let mut states: Vec<String> = manifest.files().map(|file| file.name.clone()).collect();
    states.dedup();
    let storage = Arc::new(Memory::with(files));
    check(&bound, 1_000, 1, (any::<Index>(), changes()), |(which, changes)| {
        let state = &states[which.index(states.len())];
        let lie = changed(&files[state], &changes);
        let digest: String = Sha256::digest(&lie).iter().map(|byte| format!("{byte:02x}")).collect();
        let text = String::from_utf8(manifest.text().unwrap()).unwrap();
        let file = manifest.files().find(|file| file.name == *state).unwrap();
        let json = text.replace(&file.sha256, &digest);
        let json = json.rsplit_once(",\n  \"checksum\"").unwrap().0.to_owned() + "\n}";
        storage.put(&name, sealed(&json));
        storage.put(state, lie);
        let loaded = runtime.block_on(load(storage.clone()));
        storage.put(state, files[state].clone());
        if let Err(error) = loaded {
            // `internal` is how a panic of a background task is told.
            prop_assert!(error.kind() != ErrorKind::Internal, "{}", error);
        }
        Ok(())
    });
}
