//! Work that panics, as an error: a task that dies must be noticed by whoever waits for what it gives.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;

use super::error::{Error, Result};

/// What some work gives; `who` does it.
///
/// # Errors
/// `internal` when it has panicked. What it was in the midst of must then not be used on.
pub async fn caught<F: Future>(who: &str, work: F) -> Result<F::Output> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.map_err(|panic| Error::internal(format!("{who} died: {}", said(panic.as_ref()))))
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref().copied()).unwrap_or("it has panicked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contracts::ErrorKind;

    #[tokio::test]
    async fn a_panic_is_an_error_with_its_words() {
        assert_eq!(caught("it", async { 7 }).await.expect("no panic"), 7);
        for (error, words) in [
            (caught("it", async { panic!("as it does") }).await, "it died: as it does"),
            (caught("it", async { panic!("after {} rows", 7) }).await, "it died: after 7 rows"),
            (caught("it", async { std::panic::panic_any(7) }).await, "it died: it has panicked"),
        ] {
            let error: Error = error.map(|(): ()| ()).expect_err("it has panicked");
            assert_eq!((error.kind(), error.message()), (ErrorKind::Internal, words));
        }
    }
}
