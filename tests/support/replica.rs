//! A replica of a job, as a process, and what it says of itself.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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

/// Waits until `done`, and says how long it took.
pub(crate) async fn wait(what: &str, limit_ms: u64, mut done: impl AsyncFnMut() -> bool) -> u64 {
    for waited in (0..limit_ms).step_by(50) {
        if done().await {
            return waited;
        }
        pause(50).await;
    }
    panic!("{what}: not within {limit_ms} ms");
}

#[expect(clippy::disallowed_methods, reason = "a test waits for another process")]
async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
