//! The orders of the error output: refused records, and questions whether it has them.

use std::fmt;

use tokio::sync::{mpsc, oneshot};

use crate::contracts::{Error, ErrorOutput, RejectedRecord, Result};

/// What the error output is asked to do.
#[derive(Debug)]
pub(crate) enum ErrorsOrder {
    /// Write these.
    Records(Vec<RejectedRecord>),
    /// Answer when everything before has been written and flushed.
    Flush(oneshot::Sender<()>),
}

/// Orders that may wait for the error output, and about how many bytes of records each has: where more is refused than the output takes, whoever
/// sends waits, and no more than that is in memory beside the epochs.
pub(crate) const ERRORS_WAITING: usize = 4;
const REFUSED_BYTES: usize = 1 << 20;

/// Sends refused records to the error output.
///
/// # Errors
/// It has gone ([`is_gone`]).
pub(crate) async fn refuse(errors: &mpsc::Sender<ErrorsOrder>, records: Vec<RejectedRecord>) -> Result<()> {
    let (mut part, mut bytes) = (Vec::new(), 0);
    for record in records {
        bytes += record.bytes();
        part.push(record);
        if bytes >= REFUSED_BYTES {
            errors.send(ErrorsOrder::Records(std::mem::take(&mut part))).await.map_err(|_| gone())?;
            bytes = 0;
        }
    }
    if part.is_empty() { Ok(()) } else { errors.send(ErrorsOrder::Records(part)).await.map_err(|_| gone()) }
}

/// Writes refused records until the channel closes.
pub(crate) async fn run_errors(
    mut output: Box<dyn ErrorOutput>,
    mut orders: mpsc::Receiver<ErrorsOrder>,
) -> Result<()> {
    while let Some(order) = orders.recv().await {
        let (mut next, mut waits) = (Some(order), None);
        while let Some(order) = next {
            next = match order {
                ErrorsOrder::Records(list) => {
                    output.write(&list).await?;
                    orders.try_recv().ok()
                }
                // It has all that came before; where more is refused than can be written, the channel is never empty.
                ErrorsOrder::Flush(done) => {
                    waits = Some(done);
                    None
                }
            };
        }
        output.flush().await?;
        // Whoever does not wait any more has given up for a reason of its own.
        if let Some(done) = waits {
            let _ = done.send(());
        }
    }
    output.flush().await
}

/// What those find who send to an error output that has failed. Why it has, its own task says.
#[derive(Debug)]
struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the error output has gone")
    }
}

impl std::error::Error for Gone {}

pub(super) fn gone() -> Error {
    Error::internal(Gone.to_string()).caused_by(Gone)
}

/// Whether it was the error output that had gone: whoever sent to it is not to blame.
pub(super) fn is_gone(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<Gone>())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use async_trait::async_trait;

    use super::*;
    use crate::contracts::RejectReason;
    use crate::runtime::reader::rejected_row;

    fn refused(text: &str) -> RejectedRecord {
        rejected_row("q", RejectReason::Late, None, String::new(), text.as_bytes().to_vec())
    }

    /// Is slower than what comes: with each write, more waits.
    struct Overloaded {
        orders: mpsc::Sender<ErrorsOrder>,
        writes: u64,
        /// How many there were before the first flush.
        before_flush: Arc<OnceLock<u64>>,
    }

    #[async_trait]
    impl ErrorOutput for Overloaded {
        async fn write(&mut self, _: &[RejectedRecord]) -> Result<()> {
            self.writes += 1;
            if self.writes < 1_000 {
                while self.orders.try_send(ErrorsOrder::Records(vec![refused("more")])).is_ok() {}
            }
            Ok(())
        }

        async fn flush(&mut self) -> Result<()> {
            self.before_flush.get_or_init(|| self.writes);
            Ok(())
        }
    }

    /// Else none would be made for as long as a producer sends what cannot be used, and a kill repeat everything since.
    #[tokio::test]
    async fn a_checkpoint_does_not_wait_until_nothing_is_refused() {
        let (orders, receiver) = mpsc::channel(ERRORS_WAITING);
        let before_flush = Arc::default();
        let output = Overloaded { orders: orders.clone(), writes: 0, before_flush: Arc::clone(&before_flush) };
        orders.send(ErrorsOrder::Records(vec![refused("first")])).await.expect("room for it");
        let (flushed, done) = oneshot::channel();
        orders.send(ErrorsOrder::Flush(flushed)).await.expect("room for it");
        let errors = tokio::spawn(run_errors(Box::new(output), receiver));
        done.await.expect("all before is flushed");
        assert_eq!(before_flush.get(), Some(&1));
        errors.abort();
    }

    /// However many records an epoch has that are refused.
    #[tokio::test]
    async fn what_waits_for_the_error_output_has_a_bound() {
        const RECORDS: usize = 2_000;
        let (orders, mut receiver) = mpsc::channel(ERRORS_WAITING);
        let text = |number: usize| format!("{number:>20000}");
        let records = (0..RECORDS).map(|number| refused(&text(number))).collect();
        let sender = tokio::spawn(async move { refuse(&orders, records).await });
        let mut next = 0;
        while let Some(ErrorsOrder::Records(part)) = receiver.recv().await {
            let bytes: usize = part.iter().map(RejectedRecord::bytes).sum();
            assert!(bytes < REFUSED_BYTES + 30_000 && receiver.len() <= ERRORS_WAITING, "{bytes} bytes");
            for record in part {
                assert!(record.record == text(next).into_bytes(), "in order");
                next += 1;
            }
        }
        assert_eq!(next, RECORDS);
        sender.await.expect("no panic").expect("all are taken");
    }
}
