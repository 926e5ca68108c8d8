//! How many records a reader may give: while logged epochs are cut again, each has its number; then all.
//!
//! A replay takes quotas away from a reader that is to be opened again elsewhere, and aborts its task. But a task that is running is aborted
//! at its next rest only. So a reader whose quotas were taken away gives nothing more, whatever it has in memory: to let it run on has
//! to be said. (Until then it ran on, at times, on a busy machine, and its split was read twice.)

use tokio::sync::mpsc;

/// What a reader is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quota {
    /// So many records more.
    Records(u64),
    /// All that come.
    All,
}

/// The reader's side.
pub(crate) struct Quotas {
    more: Option<mpsc::Receiver<Quota>>,
    left: u64,
}

impl Quotas {
    /// Numbers come through `more`; without it, there is no bound.
    pub(super) fn new(more: Option<mpsc::Receiver<Quota>>) -> Self {
        Self { more, left: 0 }
    }

    /// Waits until a record may be given, and says how many; `None` when no more may be, ever.
    pub(super) async fn allowed(&mut self) -> Option<usize> {
        while self.left == 0 {
            let Some(more) = &mut self.more else { return Some(usize::MAX) };
            match more.recv().await? {
                Quota::Records(records) => self.left = records,
                Quota::All => self.more = None,
            }
        }
        Some(usize::try_from(self.left).unwrap_or(usize::MAX))
    }

    pub(super) fn used(&mut self, records: usize) {
        self.left = self.left.saturating_sub(records as u64);
    }

    pub(super) fn replaying(&self) -> bool {
        self.more.is_some()
    }
}

/// The driver's side: lets a reader run on that has given what it was asked for.
pub(super) async fn run_on(quota: &mut Option<mpsc::Sender<Quota>>) {
    if let Some(quota) = quota.take() {
        // A reader that has gone has sent its error.
        let _ = quota.send(Quota::All).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_whose_quotas_are_taken_away_gives_nothing_more() {
        let (sender, receiver) = mpsc::channel(1);
        let mut quotas = Quotas::new(Some(receiver));
        sender.send(Quota::Records(150)).await.expect("room");
        assert_eq!(quotas.allowed().await, Some(150));
        quotas.used(100);
        assert_eq!(quotas.allowed().await, Some(50));
        quotas.used(50);
        drop(sender);
        assert_eq!(quotas.allowed().await, None);
        assert!(quotas.replaying());
    }

    #[tokio::test]
    async fn one_that_is_told_so_runs_on() {
        let (sender, receiver) = mpsc::channel(1);
        let mut quotas = Quotas::new(Some(receiver));
        let mut sender = Some(sender);
        run_on(&mut sender).await;
        assert!(sender.is_none());
        for _ in 0..2 {
            assert_eq!(quotas.allowed().await, Some(usize::MAX));
            quotas.used(7);
        }
        assert!(!quotas.replaying());
        assert_eq!(Quotas::new(None).allowed().await, Some(usize::MAX));
    }
}
