//! Emulators of AWS: each is started on a free port of the loopback interface and stopped when it is dropped.
//!
//! `tests/emulators/setup` installs them. Where one is missing a test says so and is skipped; with `CI` set it fails.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running emulator.
#[derive(Debug)]
pub(crate) struct Emulator {
    child: Child,
    pub(crate) endpoint: String,
    _folder: tempfile::TempDir,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It has nothing to keep.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where emulators are installed.
fn installed() -> PathBuf {
    if let Some(folder) = std::env::var_os("TIDEMILL_EMULATORS") {
        return folder.into();
    }
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    cache.unwrap_or_default().join("tidemill/emulators")
}

/// `None`, and a line that says so, when `path` is not there.
fn needed(path: PathBuf) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    let text = format!("'{}' is not installed: run tests/emulators/setup", path.display());
    assert!(std::env::var_os("CI").is_none(), "{text}");
    eprintln!("SKIPPED: {text}");
    None
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

async fn start(mut command: Command, port: u16) -> Emulator {
    let folder = tempfile::tempdir().unwrap();
    command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let emulator = Emulator { child, endpoint: format!("http://127.0.0.1:{port}"), _folder: folder };
    for _ in 0..600 {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return emulator;
        }
        crate::faults::pause(50).await;
    }
    panic!("{command:?} does not listen after 30 s");
}

/// Kinesis by kinesis-local 0.6.2 (kinesis-mock).
pub(crate) async fn kinesis_local() -> Option<Emulator> {
    let package = needed(installed().join("kinesis-local/node_modules/kinesis-local"))?;
    let (port, tls) = (free_port(), free_port());
    let mut command = Command::new("node");
    command
        .arg("-r")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulators/loopback.js"))
        .arg(package.join("main.js"))
        .env("KINESIS_MOCK_CERT_PATH", package.join("server.json"))
        .env("KINESIS_MOCK_PLAIN_PORT", port.to_string())
        .env("KINESIS_MOCK_TLS_PORT", tls.to_string())
        .env("SHARD_LIMIT", "1000")
        .env("LOG_LEVEL", "ERROR");
    Some(start(command, port).await)
}

/// Kinesis with enhanced fan-out by ministack 1.5.33.
pub(crate) async fn ministack() -> Option<Emulator> {
    let program = needed(installed().join("python/bin/ministack"))?;
    let port = free_port();
    let mut command = Command::new(program);
    command.env("BIND_HOST", "127.0.0.1").env("GATEWAY_PORT", port.to_string());
    Some(start(command, port).await)
}
