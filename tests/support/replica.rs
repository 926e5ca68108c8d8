//! A replica of a job, as a process, and what it says of itself.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct Replica {
    pub(crate) child: Child,
    log: PathBuf,
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Replica {
    /// Starts `command` as the host `name`. Its words go to `name.log` in `folder`.
    pub(crate) fn spawn(mut command: Command, folder: &Path, name: &str) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).unwrap();
        command.env("HOSTNAME", name).stdin(Stdio::null());
        Self { child: command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap(), log }
    }

    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// How often it has begun to lead.
    pub(crate) fn terms(&self) -> usize {
        self.text().matches("leads:").count()
    }

    pub(crate) fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Ends it in order.
    pub(crate) async fn end(&mut self) {
        self.signal("-TERM");
        wait("a replica ends", 15_000, async || self.child.try_wait().unwrap().is_some()).await;
        assert!(self.child.wait().unwrap().success(), "{}", self.text());
    }
}

/// Waits until `done`, and says how many milliseconds it took. A machine that has other work, or whose disk stands still for a while, may
/// take four times the limit.
#[expect(clippy::disallowed_methods, reason = "a test looks at another process")]
pub(crate) async fn wait(what: &str, limit_ms: u64, mut done: impl AsyncFnMut() -> bool) -> u64 {
    let (began, limit) = (Instant::now(), Duration::from_millis(4 * limit_ms));
    loop {
        // As of the look, not of its answer.
        let waited = began.elapsed();
        if done().await {
            return u64::try_from(waited.as_millis()).unwrap();
        }
        assert!(waited < limit, "{what}: not within {limit:?}");
        pause(50).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "a test waits for another process")]
async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
