//! Runs that are paused while another begins anew, savepoints of savepoints, and copies into the store of a job that runs.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::super::test_storage::{Interrupted, Request};
use super::super::tests::{STAMP, job, operators, piece, read, storages, store};
use crate::contracts::ErrorKind;
use crate::state::CheckpointStore;

#[tokio::test]
async fn a_paused_run_commits_nothing_behind_one_that_begins_anew_however_often_that_dies() {
    for storage in storages().1 {
        let mut paused = store(&storage, "a");
        for epoch in [7, 8] {
            paused.commit(&job(epoch, vec![piece(epoch, 0..9, &[])]), epoch, STAMP).await.expect("committed");
        }
        for (nonce, number) in [("b", 3), ("c", 4)] {
            let mut anew = store(&storage, nonce);
            assert_eq!(anew.take_over(None, number - 1, 100, STAMP).await.expect("taken over").number, number);
            anew.clear().await.expect("cleared");
            assert_eq!(anew.numbers().await.expect("numbers"), [number]);
            assert!(storage.list("state").await.expect("names").is_empty(), "nobody needs them");
        }
        let error = paused.commit(&job(9, vec![]), 9, STAMP).await.expect_err("fenced");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        assert_eq!(paused.numbers().await.expect("numbers"), [4]);
    }
}

/// In a folder, where nobody else writes meanwhile.
#[tokio::test]
async fn what_is_left_by_a_run_that_was_killed_while_it_began_anew_goes_with_the_next() {
    for storage in storages().1 {
        let mut before = store(&storage, "old");
        for epoch in 7..=9 {
            before.commit(&job(epoch, vec![piece(epoch, 0..9, &[])]), epoch, STAMP).await.expect("committed");
        }
        // So far it had come.
        for number in before.numbers().await.expect("numbers") {
            storage.remove(&format!("manifests/{number:010}.json")).await.expect("removed");
        }
        assert!(!storage.list("state").await.expect("names").is_empty());
        let mut anew = store(&storage, "b");
        anew.clear().await.expect("cleared");
        assert!(storage.list("state").await.expect("names").is_empty(), "nobody needs them");
        anew.commit(&job(10, vec![]), 10, STAMP).await.expect("committed");
        assert_eq!(anew.numbers().await.expect("numbers"), [4]);
    }
}

#[tokio::test]
async fn a_run_that_is_paused_while_it_begins_anew_removes_nothing_of_its_successor() {
    for storage in storages().1 {
        let rows = |epoch| job(epoch, vec![piece(epoch, 0..9, &[])]);
        store(&storage, "old").commit(&rows(7), 7, STAMP).await.expect("committed");
        let mut paused = store(&storage, "a");
        assert_eq!(paused.take_over(None, 1, 100, STAMP).await.expect("taken over").number, 2);
        // What that one was about to do is done by another one, which goes on.
        let mut successor = store(&storage, "b");
        assert_eq!(successor.take_over(None, 2, 100, STAMP).await.expect("taken over").number, 3);
        successor.clear().await.expect("cleared");
        for epoch in 101..=103 {
            successor.commit(&rows(epoch), epoch, STAMP).await.expect("committed");
        }
        let error = paused.clear().await.expect_err("fenced");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        paused.sweep().await.expect("swept");
        assert_eq!(successor.numbers().await.expect("numbers"), [3, 4, 5, 6]);
        for number in 3..=6 {
            let manifest = successor.manifest(number).await.expect("it is there");
            successor.verify(&manifest).await.expect("so are its files");
        }
    }
}

#[tokio::test]
async fn a_savepoint_is_saved_under_another_name_when_its_checkpoint_has_gone() {
    for storage in storages().1 {
        let mut own = store(&storage, "a");
        own.commit(&job(7, vec![piece(1, 0..20, &[])]), 7, STAMP).await.expect("committed");
        let manifest = own.latest().await.expect("readable").expect("there");
        own.save_as(&manifest, "old").await.expect("saved");
        for epoch in 8..12 {
            own.commit(&job(epoch, vec![piece(epoch, 0..9, &[])]), epoch, STAMP).await.expect("committed");
            own.sweep().await.expect("swept");
        }
        assert!(!own.numbers().await.expect("numbers").contains(&1));
        own.save_as(&own.savepoint("old").await.expect("kept"), "new").await.expect("it is there");
        own.drop_savepoint("old").await.expect("dropped");
        own.sweep().await.expect("swept");
        let kept = own.savepoint("new").await.expect("kept");
        own.verify(&kept).await.expect("its files are there");
        // One that was removed while it was saved is not.
        own.drop_savepoint("new").await.expect("dropped");
        let error = own.save_as(&kept, "newer").await.expect_err("its files may go");
        assert!(error.message().contains("checkpoint 1 was removed meanwhile"), "{error}");
        assert_eq!(own.savepoints().await.expect("names"), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_copy_has_all_its_files_though_the_job_there_cleans_up() {
    let (_folder, from) = storages();
    for inner in storages().1 {
        let mut source = store(&from[0], "source");
        let wanted = job(7, vec![piece(1, 0..20, &[4])]);
        source.commit(&wanted, 7, STAMP).await.expect("committed");
        let manifest = source.latest().await.expect("readable").expect("there");
        let mut own = store(&inner, "job");
        for epoch in 41..=44 {
            own.commit(&job(epoch, vec![piece(epoch, 0..9, &[])]), epoch, STAMP).await.expect("committed");
        }
        // First it makes the checkpoint of that number itself; then it only removes what nobody needs.
        let there = Arc::new(Mutex::new((own, vec![false, true])));
        let raced = Interrupted::storage(&inner, move |request| {
            let there = Arc::clone(&there);
            matches!(request, Request::Create(name) if name.starts_with("manifests/")).then_some(async move {
                let (own, commits) = &mut *there.lock().await;
                match commits.pop() {
                    Some(true) => _ = own.commit(&job(50, vec![piece(50, 0..3, &[])]), 50, STAMP).await?,
                    Some(false) => {}
                    None => return Ok(()),
                }
                own.sweep().await
            })
        });
        let mut to = store(&raced, "tools");
        let newest = to.newest_number().await.expect("listed");
        let error = source.copy_to(&manifest, &mut to, newest, 60, STAMP).await.expect_err("the number is taken");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        let newest = to.newest_number().await.expect("listed");
        let copied = source.copy_to(&manifest, &mut to, newest, 60, STAMP).await.expect("copied");
        assert_eq!(copied.number, 6);
        to.verify(&copied).await.expect("its files are there");
        let found = read(&inner).await.expect("whole").expect("there");
        assert_eq!(operators(&found), operators(&wanted));
    }
}

#[tokio::test]
async fn a_checkpoint_moves_to_another_store() {
    let (_folder, storages) = storages();
    let (mut from, mut to) = (store(&storages[0], "a"), store(&storages[1], "b"));
    let wanted = job(7, vec![piece(1, 0..20, &[4])]);
    from.commit(&wanted, 7, STAMP).await.expect("committed");
    let manifest = from.latest().await.expect("readable").expect("there");
    from.copy_to(&manifest, &mut to, 0, 7, STAMP).await.expect("copied");
    let found = read(&storages[1]).await.expect("whole").expect("there");
    assert_eq!(operators(&found), operators(&wanted));
}

/// Clean-up stands still while it removes the first checkpoint: by then somebody goes back to that, or to a savepoint of it.
#[tokio::test]
async fn clean_up_leaves_what_somebody_has_gone_back_to_meanwhile() {
    for inner in storages().1 {
        let kept = Arc::clone(&inner);
        let goes_back = Interrupted::storage(&inner, move |request| {
            let mut tools = store(&kept, "tools");
            matches!(request, Request::Remove(name) if name.starts_with("manifests/")).then_some(async move {
                let first = tools.manifest(1).await?;
                tools.save_as(&first, "meanwhile").await?;
                let newest = tools.newest_number().await?;
                tools.rewind(&first, "checkpoint 1", newest, 50, STAMP).await?;
                tools.drop_savepoint("meanwhile").await
            })
        });
        let mut own = CheckpointStore::new(goes_back, "a", 1);
        for epoch in [7, 8] {
            own.commit(&job(epoch, vec![piece(epoch, 0..9, &[])]), epoch, STAMP).await.expect("committed");
        }
        own.sweep().await.expect("swept");
        let look = store(&inner, "b");
        assert_eq!(look.numbers().await.expect("numbers"), [2, 3], "{}", inner.place());
        look.verify(&look.manifest(3).await.expect("it is there")).await.expect("so are its files");
    }
}
