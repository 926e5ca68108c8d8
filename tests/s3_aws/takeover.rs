//! The leader is killed, with the lease that a job has by default: how long results are missing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::emulator::pause;
use crate::emulators_of_aws::dynoxide;
use crate::replica::wait;
use crate::tables::{client, create_table};
use crate::upgrade::{self, Place, STILL, copies, counted, produce, stood_still, watch};

/// What the pages promise.
const WITHIN: Duration = Duration::from_secs(15);
/// What the lease itself takes: it is not taken while the leader may live. Its last renewal was sent a beat before it died.
const AT_LEAST: Duration = Duration::from_millis(8_000 - 1_600 - 100);

/// The job, without a length of its lease of its own.
fn sql() -> String {
    let sql = upgrade::SQL.replace("SET 'tidemill.lease.ttl' = '8 s';\n", "").replace("'500 ms'", "'10 s'");
    assert!(!sql.contains("lease.ttl") && sql.contains("'execution.checkpointing.interval' = '10 s'"));
    sql
}

#[tokio::test(flavor = "multi_thread")]
async fn results_go_on_within_15_seconds_after_the_leader_was_killed() {
    let Some((place, stream, database)) = Place::new(&sql()).await else { return };
    goes_on(&place, stream, database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_they_do_with_the_lease_in_dynamodb() {
    let sql = sql().replace("'tidemill.lease' = 'checkpoints'", "'tidemill.lease' = 'dynamodb:leases'");
    let Some((mut place, stream, database)) = Place::new(&sql).await else { return };
    let Some(dynamodb) = dynoxide().await else { return };
    let client = client(&dynamodb.endpoint);
    create_table(&client, "leases", &[("job", "S")]).await;
    place.dynamodb = Some(dynamodb);
    goes_on(&place, stream, database).await;
    let kept = client.scan().table_name("leases").send().await.unwrap();
    assert!(kept.count() > 0, "the lease was there");
}

async fn goes_on(place: &Place, stream: PathBuf, database: PathBuf) {
    let (mut leader, mut other) = (place.begin("one").await, place.begin("two").await);
    assert_eq!((leader.terms(), other.terms()), (1, 0));
    let (produced, watched) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let producer = tokio::spawn(produce(stream, Arc::clone(&produced)));
    let watcher = tokio::spawn(watch(database.clone(), true, Arc::clone(&watched)));
    let machine = tokio::spawn(stood_still(place.at("probe"), Arc::clone(&watched)));
    // So long that there is a checkpoint, and that much is to be repeated.
    wait("events are counted", 30_000, async || counted(&database) > 150).await;
    leader.signal("-KILL");
    leader.child.wait().unwrap();
    let killed = tokio::time::Instant::now();
    wait("the other one leads", 60_000, async || other.terms() == 1).await;
    let led = killed.elapsed();
    wait("all events so far are counted", 60_000, async || counted(&database) > 600).await;

    produced.store(true, Ordering::SeqCst);
    let events = producer.await.unwrap().len() as u64;
    wait("all events are counted", 15_000, async || counted(&database) == events).await;
    pause(100).await;
    watched.store(true, Ordering::SeqCst);
    let (seen, still) = (watcher.await.unwrap(), machine.await.unwrap());
    other.end().await;

    let longest = seen.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap();
    println!(
        "{events} events; the other one leads after {led:?}; no result for {longest:?}, the machine stood still for {still:?}"
    );
    assert!(longest >= AT_LEAST || still > STILL, "taken over after {longest:?}, while the lease held");
    assert!(longest <= WITHIN || still > STILL, "no result for {longest:?}; the other one leads after {led:?}");
    assert_eq!(counted(&database), events);
    let copies = copies(&place.at("out"));
    assert!(copies.len() as u64 == events && copies.values().all(|times| *times == 1), "{events}: {copies:?}");
}
