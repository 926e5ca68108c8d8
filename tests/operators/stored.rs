//! What the checkpoints of an operator take in their storage. Its rows die in place, and its pieces are merged in memory: so files hold
//! dead rows, and pieces that are no longer part of the state.

use tidemill::contracts::Storage as _;
use tidemill::state::{CheckpointStore, LocalStorage, OperatorState, SavedJob, SavedQuery, Stamp, StatePiece};

use super::*;

const EPOCHS: u64 = 160;
const KEYS: u64 = 10_000;
/// Between two epochs, in milliseconds.
const STEP: i64 = 100;
/// A key outlives its last row by twice this.
const TTL: i64 = 20 * STEP;
/// What a file has beside its rows: schema, names of pieces, footer.
const BYTES_OF_A_FILE: u64 = 3_000;

/// Keys that have rows in an epoch.
type Keys = fn(u64) -> Vec<i64>;

fn random(epoch: u64, count: u64, of: u64) -> Vec<i64> {
    (0..count).map(|n| (splitmix64(epoch << 32 | n) % of) as i64).collect()
}

/// A job whose only state is this.
fn job(epoch: u64, watermark: Watermark, pieces: Vec<StatePiece>) -> SavedJob {
    let state = OperatorState { fingerprint: "counts".to_owned(), watermark: Some(watermark), pieces };
    let query = SavedQuery { operators: vec![state], ..SavedQuery::default() };
    SavedJob { epoch, queries: [("q".to_owned(), query)].into_iter().collect(), ..SavedJob::default() }
}

/// Bytes of the state files below a folder.
async fn bytes_in(folder: &std::path::Path) -> u64 {
    let storage = LocalStorage::new(folder);
    let names = storage.list("state").await.expect("a list");
    names.iter().map(|name| std::fs::metadata(folder.join(name)).expect("a file").len()).sum()
}

/// Bytes of the same rows without dead ones, written at once.
async fn bytes_of_live(state: &SavedJob) -> u64 {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = CheckpointStore::new(Arc::new(LocalStorage::new(folder.path())), "fresh", 1);
    let live = |piece: &StatePiece| {
        let rows = piece.rows.load().expect("loaded");
        let live = piece.dead.as_ref().map(|dead| arrow::array::BooleanArray::from(!dead));
        live.map_or_else(|| rows.clone(), |live| arrow::compute::filter_record_batch(&rows, &live).expect("filtered"))
    };
    let pieces = &state.queries["q"].operators[0].pieces;
    let batches: Vec<RecordBatch> = pieces.iter().map(live).collect();
    let rows = match batches.first() {
        Some(first) => arrow::compute::concat_batches(first.schema_ref(), &batches).expect("one batch"),
        None => return 0,
    };
    let fresh = job(state.epoch, Watermark::MIN, vec![StatePiece { id: 1, rows: rows.into(), dead: None }]);
    store.commit(&fresh, 0, Stamp { generation: 1, time_ms: 0 }).await.expect("committed");
    bytes_in(folder.path()).await
}

/// Commits and sweeps after each epoch, and answers the most that a checkpoint named, as a multiple of its live rows.
async fn stored(aggregation: &Aggregation, keys: Keys, ttl: bool, spills: bool) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let (_parent, spill) = spill_folder();
    let mut store = CheckpointStore::new(Arc::new(LocalStorage::new(folder.path())), "nonce", 3);
    let ttl = ttl.then_some(TimeToLive { ttl_ms: TTL, last_seen: 2 });
    let mut operator =
        RunningAggregate::try_new(Arc::clone(&aggregation.parts), Emit::Upserts, ttl).expect("an operator");
    let (mut most, mut committed) = (0.0_f64, Vec::new());
    for epoch in 1..=EPOCHS {
        let now = epoch as i64 * STEP;
        let rows: Vec<Vec<i64>> = keys(epoch).into_iter().map(|key| vec![key, now]).collect();
        operator.push(aggregation.partials(&[&rows]).await, &compute()).await.expect("changes");
        operator.advance(Watermark(now)).expect("advanced");
        if spills && epoch % 9 == 0 {
            operator.spill(&spill).expect("spilled");
        }
        let (watermark, pieces) = operator.snapshot();
        let state = job(epoch, watermark, pieces);
        let stamp = Stamp { generation: 1, time_ms: now };
        committed.push(store.commit(&state, epoch, stamp).await.expect("committed"));
        store.sweep().await.expect("swept");
        if let [.., third, second, last] = &committed[..] {
            let (on_disk, allowed) =
                (bytes_in(folder.path()).await, third.total_bytes + second.written_bytes + last.written_bytes);
            assert!(on_disk <= allowed, "epoch {epoch}: {on_disk} bytes, of {allowed}");
        }
        if epoch % 4 == 0 {
            let last = committed.last().expect("there is one").total_bytes;
            let files = std::fs::read_dir(folder.path().join("state")).expect("a folder").count() as u64;
            let live = bytes_of_live(&state).await;
            most = most.max(last.saturating_sub(files * BYTES_OF_A_FILE) as f64 / live.max(1) as f64);
        }
    }
    most
}

#[test]
fn what_checkpoints_store_is_bounded_by_what_is_alive() {
    let runtime = runtime();
    let aggregation = runtime.block_on(Aggregation::new(&["k", "t"], "SELECT k, count(*), max(t) FROM t GROUP BY k"));
    let cases: [(&str, Keys, bool); 4] = [
        ("keys that come and go", |epoch| random(epoch, 400, KEYS), true),
        ("keys that stay", |epoch| random(epoch, 400, KEYS), false),
        // Once many, then few: the many die where they are.
        ("a burst", |epoch| if epoch == 1 { (0..KEYS as i64).collect() } else { random(epoch, 8, 1 << 40) }, true),
        ("new keys", |epoch| (0..100).map(|n| (epoch * 100 + n) as i64).collect(), true),
    ];
    let mut problems = Vec::new();
    for (name, keys, ttl) in cases {
        for spills in [false, true] {
            let most = runtime.block_on(stored(&aggregation, keys, ttl, spills));
            println!("{name}, spills {spills}: {most:.2} times what is alive");
            if most > 2.0 {
                problems.push(format!("{name}, spills {spills}: {most:.2} times what is alive"));
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// A window that is open for long: what is written is what has come, not the window, also after it was compacted and loaded again.
#[test]
fn of_a_large_window_only_what_is_new_is_written() {
    const GROUPS: i64 = 120_000;
    let runtime = runtime();
    let sql = "SELECT ws, we, k, count(*), sum(v) FROM t GROUP BY ws, we, k";
    let aggregation = runtime.block_on(Aggregation::new(&["ws", "we", "k", "v"], sql));
    let new = || {
        let columns = WindowColumns { start: Some(0), end: Some(1), time: None, size_ms: None };
        WindowAggregate::try_new(Arc::clone(&aggregation.parts), columns, None).expect("an operator")
    };
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = CheckpointStore::new(Arc::new(LocalStorage::new(folder.path())), "nonce", 2);
        let mut operator = new();
        let (mut number, mut whole) = (0, 0);
        for epoch in 1..=120_u64 {
            // Each group comes twice in ten epochs, so the window is compacted; then one row an epoch.
            let rows: Vec<Vec<i64>> = match epoch {
                1..=10 => (0..GROUPS / 5).map(|n| vec![0, 10, (epoch as i64 * GROUPS / 5 + n) % GROUPS, n]).collect(),
                _ => vec![vec![0, 10, epoch as i64, 1]],
            };
            operator.push(aggregation.partials(&[&rows]).await, &compute()).await.expect("taken");
            let (watermark, pieces) = operator.snapshot();
            let state = job(epoch, watermark, pieces);
            let committed = store.commit(&state, epoch, Stamp { generation: 1, time_ms: 0 }).await.expect("committed");
            if epoch <= 10 {
                whole = committed.total_bytes;
            } else if epoch > 11 {
                let written = committed.written_bytes;
                // Small files of a size are merged now and then; the window itself is not among them.
                assert!(written < whole / 20, "epoch {epoch}: {written} bytes written, the window has {whole}");
            }
            number = committed.number;
            store.sweep().await.expect("swept");
            if epoch == 60 {
                // Another run goes on from here.
                store = CheckpointStore::new(Arc::new(LocalStorage::new(folder.path())), "other", 2);
                let manifest = store.manifest(number).await.expect("a manifest");
                let mut loaded = store.load(&manifest).await.expect("loaded");
                let of = loaded.queries.remove("q").expect("the query").operators.remove(0);
                operator = new();
                let watermark = of.watermark.expect("a watermark");
                operator.restore(watermark, of.pieces, None, &compute()).await.expect("restored");
            }
        }
        assert!(whole > 1 << 20, "{whole}");
        let files = std::fs::read_dir(folder.path().join("state")).expect("a folder").count();
        assert!(files <= 48, "{files} files after checkpoint {number}");
    });
}
