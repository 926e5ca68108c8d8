//! Emulators of AWS: each is started on free ports of the loopback interface and stopped when it is dropped.
//!
//! `tests/emulators/setup` installs them. Where one is missing a test says so and is skipped; with `CI` set it fails.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long an emulator may take until it listens, in steps of [`STEP`].
const STEPS: usize = 600;
const STEP: Duration = Duration::from_millis(50);

/// The only key that SeaweedFS takes; the others take any.
pub(crate) const KEY_ID: &str = "test";
/// See [`KEY_ID`].
pub(crate) const SECRET: &str = "testtest";

/// A running emulator.
#[derive(Debug)]
pub(crate) struct Emulator {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    pub(crate) endpoint: String,
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It has nothing to keep.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Emulator {
    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("emulator.log")).unwrap_or_default()
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
fn needed(path: &str) -> Option<PathBuf> {
    let path = installed().join(path);
    if path.exists() {
        return Some(path);
    }
    let text = format!("'{}' is not installed: run tests/emulators/setup", path.display());
    assert!(std::env::var_os("CI").is_none(), "{text}");
    eprintln!("SKIPPED: {text}");
    None
}

/// Ports that are free, and stay so until an emulator binds them: below 32,768, from where Linux gives ports to
/// connections, and for each test process from another place on.
fn ports<const N: usize>() -> [u16; N] {
    const FIRST: u32 = 15_000;
    const COUNT: u32 = 17_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes of tests that run side by side have numbers near each other, and none asks for so many ports.
    let own = std::process::id().wrapping_mul(97);
    let mut port = || {
        let number = own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        u16::try_from(FIRST + number % COUNT).unwrap()
    };
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::array::from_fn(|_| std::iter::repeat_with(&mut port).find(is_free).unwrap())
}

#[expect(clippy::disallowed_methods, reason = "a test waits for another process")]
async fn start(name: &'static str, mut command: Command, port: u16, folder: tempfile::TempDir) -> Emulator {
    let log = std::fs::File::create(folder.path().join("emulator.log")).unwrap();
    command.current_dir(folder.path()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let child = command.spawn().unwrap();
    let emulator = Emulator { name, port, endpoint: format!("http://127.0.0.1:{port}"), child, folder };
    for _ in 0..STEPS {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return emulator;
        }
        tokio::time::sleep(STEP).await;
    }
    panic!("{name} does not listen on port {port} after {:?}:\n{}", STEP * STEPS as u32, emulator.log());
}

/// Kinesis by kinesis-local 0.6.2 (kinesis-mock): polling and resharding.
pub(crate) async fn kinesis_local() -> Option<Emulator> {
    let package = needed("kinesis-local/node_modules/kinesis-local")?;
    let [port, tls] = ports();
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
    Some(start("kinesis-local", command, port, tempfile::tempdir().unwrap()).await)
}

const NGHTTPX: &str = "nghttpx/nghttpx";

/// Whether TLS and HTTP/2 can be had; says so, or fails, as for emulators.
#[allow(dead_code, reason = "the tests of Kinesis alone ask")]
pub(crate) fn nghttpx_is_there() -> bool {
    needed(NGHTTPX).is_some()
}

/// nghttpx (of nghttp2): TLS and HTTP/2 before a server on `upstream` that speaks HTTP/1.1. `folder` has `key.pem` and
/// `cert.pem`; a line for each call goes into a file `*.log` there: protocol, request, status and operation.
pub(crate) async fn nghttpx(upstream: u16, folder: &Path) -> Option<Emulator> {
    let program = needed(NGHTTPX)?;
    let [port] = ports();
    let mut command = Command::new(program);
    command
        .args(["--conf=/dev/null", "--workers=1", "--errorlog-file=/dev/stderr"])
        .arg("--accesslog-format=$alpn $request $status $http_x_amz_target")
        .arg(format!("--accesslog-file={}", folder.join(format!("{port}.log")).display()))
        .arg(format!("--frontend=127.0.0.1,{port}"))
        .arg(format!("--backend=127.0.0.1,{upstream}"))
        .args([folder.join("key.pem"), folder.join("cert.pem")]);
    let mut front = start("nghttpx", command, port, tempfile::tempdir().unwrap()).await;
    front.endpoint = format!("https://127.0.0.1:{port}");
    Some(front)
}

/// ministack 1.5.33: Kinesis with enhanced fan-out, SNS and SQS; a second mind about DynamoDB and S3. It checks no
/// signature.
pub(crate) async fn ministack() -> Option<Emulator> {
    let program = needed("python/bin/ministack")?;
    let [port] = ports();
    let mut command = Command::new(program);
    command.env("BIND_HOST", "127.0.0.1").env("GATEWAY_PORT", port.to_string());
    Some(start("ministack", command, port, tempfile::tempdir().unwrap()).await)
}

/// DynamoDB by dynoxide 3.2.0, in memory.
pub(crate) async fn dynoxide() -> Option<Emulator> {
    let program = needed("dynoxide/bin/dynoxide")?;
    let [port] = ports();
    let mut command = Command::new(program);
    command.args(["serve", "--host", "127.0.0.1", "--port", &port.to_string()]);
    Some(start("dynoxide", command, port, tempfile::tempdir().unwrap()).await)
}

/// S3 by SeaweedFS 4.48: real signatures, uploads that outlive a crash. It listens before it answers: ask it for its
/// buckets first.
pub(crate) async fn seaweed() -> Option<Emulator> {
    let program = needed("python/bin/weed")?;
    let folder = tempfile::tempdir().unwrap();
    let p: [u16; 10] = ports();
    let flags = [
        format!("-dir={}", folder.path().display()),
        "-ip=127.0.0.1".to_owned(),
        "-ip.bind=127.0.0.1".to_owned(),
        "-master.telemetry=false".to_owned(),
        "-admin.ui=false".to_owned(),
        "-webdav=false".to_owned(),
        "-s3.port.iceberg=0".to_owned(),
        "-s3.port.lance=0".to_owned(),
        "-s3.autoCreateBucket=false".to_owned(),
        format!("-s3.port={}", p[0]),
        format!("-s3.port.grpc={}", p[1]),
        format!("-master.port={}", p[2]),
        format!("-master.port.grpc={}", p[3]),
        format!("-volume.port={}", p[4]),
        format!("-volume.port.grpc={}", p[5]),
        format!("-filer.port={}", p[6]),
        format!("-filer.port.grpc={}", p[7]),
        format!("-admin.port={}", p[8]),
        format!("-admin.port.grpc={}", p[9]),
    ];
    let mut command = Command::new(program);
    command.arg("mini").args(flags).env("AWS_ACCESS_KEY_ID", KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET);
    Some(start("seaweedfs", command, p[0], folder).await)
}
