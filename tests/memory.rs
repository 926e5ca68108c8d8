//! State larger than memory: the same results with next to none, over checkpoints too; and what is impossible is told.

#![recursion_limit = "256"]
#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use job::{Variant, options, run};
#[cfg(target_os = "linux")]
use parquet::file::reader::{FileReader, SerializedFileReader};
use tidemill::job::{JobOptions, MemoryOptions};
use tidemill::runtime::{Ending, Summary};

#[path = "support/job.rs"]
mod job;

const TABLES: &str = "
CREATE TABLE events (user_id STRING, n BIGINT, page STRING, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${DIR}/in', 'format' = 'json');
";

/// `rows` events of two hours by `keys` users, whose names have `length` characters more.
fn place(job: &str, rows: usize, keys: usize, length: usize) -> tempfile::TempDir {
    let (mut text, filling) = (String::new(), "x".repeat(length));
    for n in 0..rows {
        let (key, second) = (n * 7_919 % keys, n * 7_200 / rows);
        let at = format!("2026-03-01T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60);
        writeln!(text, r#"{{"user_id":"u{key}{filling}","n":{},"page":"/{}","at":"{at}"}}"#, n % 100, n % 13).unwrap();
    }
    place_of(job, text)
}

fn place_of(job: &str, events: String) -> tempfile::TempDir {
    // Not where the system has its temporary files in memory: these would count as some of a control group's.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::create_dir(folder.path().join("in")).unwrap();
    std::fs::write(folder.path().join("in/a.jsonl"), events).unwrap();
    std::fs::write(folder.path().join("job.sql"), format!("{TABLES}{job}")).unwrap();
    folder
}

/// Runs the job with its results below `name`; `bytes` of memory, or any.
async fn ran(folder: &Path, name: &str, bytes: Option<u64>, ending: Ending) -> Result<Summary, String> {
    let memory =
        bytes.map(|bytes| MemoryOptions { bytes, spill: folder.join(name).join("spill"), asked: true, jobs: 1 });
    ran_within(folder, name, memory, ending).await
}

async fn ran_within(
    folder: &Path,
    name: &str,
    memory: Option<MemoryOptions>,
    ending: Ending,
) -> Result<Summary, String> {
    let local = folder.join(name);
    let parameters =
        BTreeMap::from([("DIR", folder), ("OUT", &local)].map(|(k, v)| (k.to_owned(), v.display().to_string())));
    let variant = Variant { rows: 5_000, threads: 2, splits: 1 };
    run(&JobOptions { memory, ..options(folder.join("job.sql"), local.clone(), parameters, variant, ending) }).await
}

/// The last line of each key, and all lines without one.
fn results(folder: &Path, sink: &str) -> Vec<String> {
    let mut files: Vec<_> = std::fs::read_dir(folder.join(sink)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap());
    let text: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let mut lines: Vec<String> = match sink {
        "users" => text
            .lines()
            .map(|line| (line.split('"').nth(3).unwrap(), line))
            .collect::<BTreeMap<_, _>>()
            .into_values()
            .map(str::to_owned)
            .collect(),
        _ => text.lines().map(str::to_owned).collect(),
    };
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_next_to_no_memory_the_results_are_the_same() {
    let job = "
CREATE TABLE users (user_id STRING, c BIGINT, total BIGINT, last_page STRING, PRIMARY KEY (user_id) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/users', 'format' = 'json');
CREATE TABLE hours (user_id STRING, w TIMESTAMP(3), c BIGINT, pages BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/hours', 'format' = 'json');
CREATE TABLE hops (w TIMESTAMP(3), n BIGINT, c BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/hops', 'format' = 'json');
INSERT INTO users SELECT user_id, COUNT(*), SUM(n), MAX(page) FROM events GROUP BY user_id HAVING COUNT(*) > 1;
INSERT INTO hours SELECT user_id, window_start, COUNT(*), COUNT(DISTINCT page) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' HOUR))
GROUP BY window_start, window_end, user_id;
INSERT INTO hops SELECT window_start, n, COUNT(*) FROM TABLE(HOP(TABLE events, DESCRIPTOR(at), INTERVAL '10' MINUTE, INTERVAL '30' MINUTE))
GROUP BY window_start, window_end, n;
";
    let folder = place(job, 40_000, 15_000, 8);
    ran(folder.path(), "plenty", None, Ending::Drain).await.expect("it runs");
    let all = std::fs::read_to_string(folder.path().join("in/a.jsonl")).unwrap();
    let half = all[..all.len() / 2].rfind('\n').unwrap() + 1;
    std::fs::write(folder.path().join("in/a.jsonl"), &all[..half]).unwrap();
    let first = ran(folder.path(), "little", Some(0), Ending::Once).await.expect("it runs");
    // A file that has been read to its end is not read again when it grows.
    std::fs::write(folder.path().join("in/b.jsonl"), &all[half..]).unwrap();
    let second = ran(folder.path(), "little", Some(0), Ending::Drain).await.expect("it goes on");
    assert!(
        first.spilled_bytes > 100_000 && second.spilled_bytes > 100_000,
        "{} {}",
        first.spilled_bytes,
        second.spilled_bytes
    );
    for sink in ["users", "hours", "hops"] {
        let [plenty, little] = ["plenty", "little"].map(|name| results(&folder.path().join(name), sink));
        assert!(plenty.len() > 1_000, "{sink}: {}", plenty.len());
        let differs = plenty.iter().zip(&little).find(|(a, b)| a != b);
        assert!(
            plenty == little,
            "{sink}: {} lines and {}, the first that differs {differs:?}",
            plenty.len(),
            little.len()
        );
    }
    let left: Vec<_> = std::fs::read_dir(folder.path().join("little/spill")).unwrap().collect();
    assert!(left.is_empty(), "nothing of it outlives the run: {left:?}");
}

/// Bytes of a process in memory that are not backed by files (`proc_pid_status(5)`).
#[cfg(target_os = "linux")]
fn anonymous(process: u32) -> Option<usize> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1_024)
}

/// Keys that come from all over the input, three times each at most.
const MANY_USERS: &str = "
SET 'execution.checkpointing.interval' = '1 s';
CREATE TABLE users (user_id STRING, c BIGINT, total BIGINT, last_page STRING, PRIMARY KEY (user_id) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/users', 'format' = 'json');
INSERT INTO users SELECT user_id, COUNT(*), SUM(n), MAX(page) FROM events GROUP BY user_id HAVING COUNT(*) > 2;
";

/// The program itself, over the job in `folder`, with all that it keeps and writes below `local` there, in the control group whose list
/// of `members` is given.
fn program(folder: &Path, local: &str, members: &Path, options: &[&str]) -> Command {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"echo $$ > "$0" && exec "$@""#, &members.display().to_string(), env!("CARGO_BIN_EXE_tidemill")])
        .args(["run", &path("job.sql"), "--local", &path(local), "--drain"])
        .args(["--param", &format!("DIR={}", folder.display()), "--param", &format!("OUT={}", path(local))])
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The program itself: keys that come from all over what is on disk, and checkpoints of it, need no more memory than it was given.
#[cfg(target_os = "linux")]
#[test]
fn a_process_stays_within_its_memory() {
    // Some 75 MiB of state, of which a seventh of the memory may stay in it.
    let folder = place(MANY_USERS, 450_000, 200_000, 250);
    runs_within(224, &folder);
    assert_eq!(results(&folder.path().join("local"), "users").len(), 50_000);
}

/// Runs the program with so many MiB, which it needs its disk for.
#[cfg(target_os = "linux")]
#[expect(clippy::disallowed_methods, reason = "a test looks at another process now and then")]
fn runs_within(mib: usize, folder: &tempfile::TempDir) {
    let memory = format!("{mib}MiB");
    let mut process = program(folder.path(), "local", Path::new("/dev/null"), &["--memory", &memory]).spawn().unwrap();
    let mut most = 0;
    while process.try_wait().unwrap().is_none() {
        most = most.max(anonymous(process.id()).unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let output = process.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("of state were put on disk"), "{said}");
    println!("{} MiB of {mib}", most >> 20);
    assert!(most < mib << 20, "{} MiB of {mib}\n{said}", most >> 20);
}

#[cfg(target_os = "linux")]
const WIDE_USERS: usize = 3_000;

/// Users with a page of 40,000 characters each, and after all of those with a short one each, in one hour.
#[cfg(target_os = "linux")]
fn wide_place(job: &str) -> tempfile::TempDir {
    let (mut text, wide) = (String::new(), "x".repeat(40_000));
    for n in 0..2 * WIDE_USERS {
        let (page, second) = (if n < WIDE_USERS { wide.as_str() } else { "a" }, n * 3_000 / (2 * WIDE_USERS));
        let (user, at) = (n % WIDE_USERS, format!("2026-03-01T00:{:02}:{:02}Z", second / 60, second % 60));
        writeln!(text, r#"{{"user_id":"u{user}","n":1,"page":"{page}","at":"{at}"}}"#).unwrap();
    }
    place_of(job, text)
}

/// The job counts the records of each user, and gives the length of the longest page.
#[cfg(target_os = "linux")]
fn gives_each_wide_user_within_the_memory(job: &str, table: &str) {
    let folder = wide_place(job);
    runs_within(224, &folder);
    let users = results(&folder.path().join("local"), table);
    let are_whole = users.iter().all(|line| line.contains("\"c\":2,\"l\":40000"));
    assert!(users.len() == WIDE_USERS && are_whole, "{} users", users.len());
}

/// A few records touch all of a state of some 115 MiB: the memory has a bound in bytes, however few rows these are.
#[cfg(target_os = "linux")]
#[test]
fn states_of_wide_rows_stay_within_the_memory() {
    let job = "
SET 'execution.checkpointing.interval' = '1 s';
CREATE TABLE users (user_id STRING, c BIGINT, l BIGINT, PRIMARY KEY (user_id) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/users', 'format' = 'json');
INSERT INTO users SELECT user_id, COUNT(*), CHAR_LENGTH(MAX(page)) FROM events GROUP BY user_id HAVING COUNT(*) > 1;
";
    gives_each_wide_user_within_the_memory(job, "users");
}

#[cfg(target_os = "linux")]
#[test]
fn windows_of_wide_rows_stay_within_the_memory() {
    let job = "
CREATE TABLE hours (user_id STRING, c BIGINT, l BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/hours', 'format' = 'json');
INSERT INTO hours SELECT user_id, COUNT(*), CHAR_LENGTH(MAX(page)) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' HOUR))
GROUP BY window_start, window_end, user_id;
";
    gives_each_wide_user_within_the_memory(job, "hours");
}

/// Windows of many queries close with the same watermark: what each of them gives would fit, and all together would not.
#[cfg(target_os = "linux")]
#[test]
fn queries_whose_windows_close_together_stay_within_the_memory() {
    // Each gives some 44 MiB, where 77 may be in memory (a fifth of 384).
    let mut job = String::new();
    for number in 0..8 {
        writeln!(
            job,
            "CREATE TABLE days{number} (user_id STRING, c BIGINT) WITH ('connector' = 'filesystem', 'path' = '${{OUT}}/days{number}', 'format' = 'json');
INSERT INTO days{number} SELECT user_id, COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' DAY))
GROUP BY window_start, window_end, user_id HAVING COUNT(*) > {};",
            number % 2
        )
        .unwrap();
    }
    let folder = place(&job, 101_000, 100_000, 420);
    runs_within(384, &folder);
    for number in 0..8 {
        let rows = results(&folder.path().join("local"), &format!("days{number}")).len();
        assert_eq!(rows, if number % 2 == 0 { 100_000 } else { 1_000 }, "{number}");
    }
}

/// State that a run with much memory has saved in large pieces.
#[cfg(target_os = "linux")]
#[test]
fn a_job_goes_on_with_less_memory_than_it_had() {
    // Some 90 MiB of state, twice: rows and keys.
    let job = "
CREATE TABLE users (user_id STRING, c BIGINT, PRIMARY KEY (user_id) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/users', 'format' = 'json');
INSERT INTO users SELECT user_id, COUNT(*) FROM events GROUP BY user_id HAVING COUNT(*) > 1;
";
    let folder = place(job, 150_000, 150_000, 600);
    let output = program(folder.path(), "local", Path::new("/dev/null"), &["--memory", "4GiB"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("of state were put on disk"), "{said}");
    let all = std::fs::read_to_string(folder.path().join("in/a.jsonl")).unwrap();
    let again: String = all.split_inclusive('\n').take(1_000).collect();
    std::fs::write(folder.path().join("in/b.jsonl"), again).unwrap();
    runs_within(224, &folder);
    let users = results(&folder.path().join("local"), "users");
    assert!(users.len() == 1_000 && users.iter().all(|line| line.contains("\"c\":2")), "{} users", users.len());
}

const PARTITIONS: &str = "
CREATE TABLE archive (user_id STRING, n BIGINT, page STRING) PARTITIONED BY (page)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/archive', 'format' = 'parquet', 'parquet.compression' = 'UNCOMPRESSED');
INSERT INTO archive SELECT user_id, n, page FROM events;
";

/// Files of many partitions are open at a time; their row groups together have their share of the memory.
#[cfg(target_os = "linux")]
#[test]
#[expect(clippy::disallowed_methods, reason = "a test looks at another process now and then")]
fn the_row_groups_of_open_files_have_a_share_of_the_memory() {
    const MEMORY: usize = 224 << 20;
    const ROWS: usize = 600_000;
    // 13 partitions of some 20 MB, none of which fills a row group.
    let folder = place(PARTITIONS, ROWS, ROWS, 420);
    let mut process = program(folder.path(), "local", Path::new("/dev/null"), &["--memory", "224MiB"]).spawn().unwrap();
    let mut most = 0;
    while process.try_wait().unwrap().is_none() {
        most = most.max(anonymous(process.id()).unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let output = process.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    println!("at most {} MiB of {}", most >> 20, MEMORY >> 20);
    assert!(most < MEMORY, "{} MiB of {}\n{said}", most >> 20, MEMORY >> 20);
    let partitions = std::fs::read_dir(folder.path().join("local/archive")).unwrap();
    let files = partitions.flat_map(|partition| std::fs::read_dir(partition.unwrap().path()).unwrap());
    let rows = files.map(|file| {
        let reader = SerializedFileReader::new(std::fs::File::open(file.unwrap().path()).unwrap()).unwrap();
        reader.metadata().file_metadata().num_rows()
    });
    assert_eq!(rows.sum::<i64>(), ROWS as i64);
}

/// A control group below one of this process's own, with so many bytes for all in it.
#[cfg(target_os = "linux")]
struct Group(PathBuf);

#[cfg(target_os = "linux")]
impl Group {
    /// `None` where this process may make none.
    fn new(bytes: u64) -> Option<Self> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let mut places = groups.lines().filter_map(|line| {
            let (controllers, own) = line.split_once(':')?.1.split_once(':')?;
            let old = controllers.split(',').any(|controller| controller == "memory");
            let (root, limit, with_swap) = match controllers {
                "" => ("/sys/fs/cgroup", "memory.max", "memory.swap.max"),
                _ if old => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
                _ => return None,
            };
            let name = format!("tidemill-test-{}", std::process::id());
            let above = Path::new(own).ancestors();
            above.into_iter().find_map(|group| {
                let folder = Path::new(&format!("{root}{}", group.display())).join(&name);
                std::fs::create_dir(&folder).ok()?;
                let group = Self(folder);
                // Without `create`: where the folder is none of a group, there is no such file.
                let write = |file: &str, bytes: u64| {
                    let mut file = std::fs::OpenOptions::new().write(true).open(group.0.join(file))?;
                    file.write_all(bytes.to_string().as_bytes())
                };
                write(limit, bytes).ok()?;
                let _ = write(with_swap, if old { bytes } else { 0 });
                Some(group)
            })
        });
        places.next()
    }
}

#[cfg(target_os = "linux")]
impl Drop for Group {
    #[expect(clippy::disallowed_methods, reason = "the kernel takes a moment to see that a process has ended")]
    fn drop(&mut self) {
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// The limit of its container is what a process goes by when nothing is said, and the kernel has no reason to kill it.
#[cfg(target_os = "linux")]
#[test]
fn a_container_s_limit_is_kept_by_default() {
    use std::os::unix::process::ExitStatusExt;
    let Some(group) = Group::new(256 << 20) else {
        println!("skipped: this process may not make a control group");
        return;
    };
    let job = "
CREATE TABLE days (user_id STRING, c BIGINT, total BIGINT, last_page STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/days', 'format' = 'json');
INSERT INTO days SELECT user_id, COUNT(*), SUM(n), MAX(page) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' DAY))
GROUP BY window_start, window_end, user_id HAVING COUNT(*) > 2;
";
    let folder = place(job, 450_000, 200_000, 250);
    let members = group.0.join("cgroup.procs");
    let output = program(folder.path(), "local", &members, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("of state were put on disk"), "{}: {said}", output.status);
    let days = results(&folder.path().join("local"), "days");
    assert!(days.len() == 50_000 && days.iter().all(|line| line.contains("\"c\":3,")), "{} users", days.len());
    // One that is told that it has more than there is goes beyond the limit, and what that means is the kernel's.
    std::fs::write(folder.path().join("job.sql"), format!("{TABLES}{MANY_USERS}")).unwrap();
    let output = program(folder.path(), "killed", &members, &["--memory", "8GiB"]).output().unwrap();
    assert_eq!(output.status.signal(), Some(9), "the limit is none: {}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_in_memory_before_a_restart_is_in_memory_after_it() {
    // Some 100 MiB of 153 (15 % of 1 GiB): more than half.
    let job = "
CREATE TABLE users (user_id STRING, c BIGINT, PRIMARY KEY (user_id) NOT ENFORCED) WITH ('connector' = 'blackhole');
CREATE TABLE pages (user_id STRING, page STRING, PRIMARY KEY (user_id) NOT ENFORCED) WITH ('connector' = 'blackhole');
INSERT INTO users SELECT user_id, COUNT(*) FROM events GROUP BY user_id;
INSERT INTO pages SELECT user_id, MAX(page) FROM events GROUP BY user_id;
";
    let folder = place(job, 100_000, 100_000, 200);
    let first = ran(folder.path(), "some", Some(1 << 30), Ending::Once).await.expect("it runs");
    assert_eq!(first.spilled_bytes, 0, "it fits");
    let second = ran(folder.path(), "some", Some(1 << 30), Ending::Once).await.expect("it goes on");
    assert_eq!(second.spilled_bytes, 0, "it still does");
    // And where it does not fit any more, it is put on disk on the way.
    let third = ran(folder.path(), "some", Some(1 << 28), Ending::Once).await.expect("it goes on");
    assert!(third.spilled_bytes > 20 << 20, "{}", third.spilled_bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rankings_of_all_rows_of_a_window_have_them_on_disk() {
    let job = "
CREATE TABLE last (user_id STRING, c BIGINT, r BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/last', 'format' = 'json');
CREATE TABLE ranks (user_id STRING, n BIGINT, r BIGINT, lag STRING, running BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/ranks', 'format' = 'json');
INSERT INTO last SELECT user_id, c, r FROM (
  SELECT user_id, c, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY c DESC, user_id) AS r FROM counted)
WHERE r > 19997;
INSERT INTO ranks SELECT user_id, n, r, lag, running FROM (
  SELECT *, RANK() OVER (PARTITION BY window_start, window_end, page ORDER BY n DESC) AS r,
    LAG(page, 2) OVER (PARTITION BY window_start, window_end, page ORDER BY n, user_id) AS lag,
    SUM(n) OVER (PARTITION BY window_start, window_end, page ORDER BY n, user_id) AS running
  FROM counted)
WHERE r > 1400 OR running < 3;
";
    spills_and_gives_the_same(job, &[("last", 3), ("ranks", 1_000)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rankings_of_bare_windows_and_of_joined_ones_have_their_rows_on_disk() {
    let job = "
CREATE TABLE bare (user_id STRING, r BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/bare', 'format' = 'json');
CREATE TABLE named (user_id STRING, title STRING, r BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/named', 'format' = 'json');
CREATE TABLE pages (page STRING, title STRING) WITH ('connector' = 'filesystem', 'path' = '${DIR}/pages', 'format' = 'json');
INSERT INTO bare SELECT user_id, r FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY n, user_id DESC) AS r
  FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' DAY)))
WHERE r > 19900;
INSERT INTO named SELECT user_id, title, r FROM (
  SELECT user_id, title, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY title, user_id) AS r
  FROM counted LEFT JOIN pages ON counted.page = pages.page WHERE n > 3)
WHERE r > 19000;
";
    spills_and_gives_the_same(job, &[("bare", 100), ("named", 200)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_computed_of_whole_windows_has_them_on_disk() {
    let job = "
CREATE TABLE shares (user_id STRING, n BIGINT, total BIGINT, users BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/shares', 'format' = 'json');
CREATE TABLE sets (page STRING, n BIGINT, users BIGINT, least STRING) WITH ('connector' = 'filesystem', 'path' = '${OUT}/sets', 'format' = 'json');
INSERT INTO shares SELECT user_id, n, total, users FROM (
  SELECT *, SUM(n) OVER (PARTITION BY window_start, window_end) AS total,
    COUNT(*) OVER (PARTITION BY window_start, window_end) AS users FROM counted)
WHERE n * users > total;
INSERT INTO sets SELECT page, n, COUNT(*), MIN(user_id) FROM counted
GROUP BY GROUPING SETS ((window_start, window_end, page), (window_start, window_end, n));
";
    spills_and_gives_the_same(job, &[("shares", 9_000), ("sets", 100)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_aggregates_and_sinks_have_the_rows_of_windows_on_disk() {
    let job = "
CREATE TABLE running (user_id STRING, most BIGINT, PRIMARY KEY (user_id) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/running', 'format' = 'json');
CREATE TABLE every (user_id STRING, c BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/every', 'format' = 'json');
INSERT INTO running SELECT user_id, MAX(c + n) FROM counted GROUP BY user_id;
INSERT INTO every SELECT user_id, c FROM counted;
";
    spills_and_gives_the_same(job, &[("running", 20_000), ("every", 20_000)]).await;
}

/// A filter above a running aggregate needs what changes to be withdrawn and given again: twice as many rows as there are keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_of_many_keys_at_once_is_consolidated_on_disk() {
    let job = "
CREATE TABLE running (user_id STRING, most BIGINT, PRIMARY KEY (user_id) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/running', 'format' = 'json');
INSERT INTO running SELECT user_id, MAX(c + n) FROM counted GROUP BY user_id HAVING MAX(c + n) > 0;
";
    spills_and_gives_the_same(job, &[("running", 20_000)]).await;
}

const COUNTED: &str = "
CREATE VIEW counted AS SELECT window_start, window_end, user_id, COUNT(*) AS c, MAX(n) AS n, MAX(page) AS page
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' DAY)) GROUP BY window_start, window_end, user_id;";

/// A job whose windows, `counted` among them, have some 36 MiB of rows, where 32 are the least that may be in memory.
async fn spills_and_gives_the_same(job: &str, sinks: &[(&str, usize)]) {
    let folder = place(&format!("{COUNTED}{job}"), 20_000, 20_000, 1_790);
    std::fs::create_dir(folder.path().join("pages")).unwrap();
    let pages: String = (0..10).map(|n| format!("{{\"page\":\"/{n}\",\"title\":\"{}\"}}\n", 9 - n)).collect();
    std::fs::write(folder.path().join("pages/a.jsonl"), pages).unwrap();
    ran(folder.path(), "plenty", None, Ending::Drain).await.expect("it runs");
    let summary = ran(folder.path(), "little", Some(0), Ending::Drain).await.expect("it runs");
    // The state of each query goes to disk once; what closes comes on top of it, but for the one that only buffers rows.
    let spilled = summary.spilled_bytes >> 20;
    assert!(spilled > 33 * (2 * sinks.len() as u64 - 1), "{spilled} MiB");
    for (sink, least) in sinks {
        let [plenty, little] = ["plenty", "little"].map(|name| results(&folder.path().join(name), sink));
        assert!(plenty.len() >= *least, "{sink}: {} rows", plenty.len());
        assert!(plenty == little, "{sink}: {} rows and {}", plenty.len(), little.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_top_n_only_what_it_needs_is_in_memory() {
    // Each window has some 36 MiB of rows, where 32 are the least that there can be.
    let job = "
CREATE TABLE first (user_id STRING, c BIGINT, r BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/first', 'format' = 'json');
CREATE TABLE ranks (user_id STRING, d BIGINT, r BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/ranks', 'format' = 'json');
CREATE TABLE dense (page STRING, user_id STRING, r BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/dense', 'format' = 'json');
CREATE TABLE bare (user_id STRING, n BIGINT, r BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/bare', 'format' = 'json');
CREATE VIEW counted AS SELECT window_start, window_end, user_id, COUNT(*) AS c, MAX(n) AS n, MAX(page) AS page
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' DAY)) GROUP BY window_start, window_end, user_id;
INSERT INTO first SELECT user_id, c, r FROM (
  SELECT user_id, c, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY c DESC, user_id) AS r FROM counted)
WHERE r <= 3;
INSERT INTO ranks SELECT user_id, n * 2, r FROM (
  SELECT *, RANK() OVER (PARTITION BY window_start, window_end ORDER BY n DESC, page) AS r FROM counted WHERE n < 90)
WHERE 5 > r AND user_id <> 'u1';
INSERT INTO dense SELECT page, user_id, r FROM (
  SELECT *, DENSE_RANK() OVER (PARTITION BY window_start, window_end, page ORDER BY n) AS r FROM counted)
WHERE r = 2;
INSERT INTO bare SELECT user_id, n, r FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY n, user_id DESC) AS r
  FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' DAY)))
WHERE r < 100;
";
    let folder = place(job, 20_000, 20_000, 1_790);
    ran(folder.path(), "plenty", None, Ending::Drain).await.expect("it runs");
    ran(folder.path(), "little", Some(0), Ending::Drain).await.expect("it runs");
    for (sink, least) in [("first", 3), ("ranks", 10), ("dense", 100), ("bare", 99)] {
        let [plenty, little] = ["plenty", "little"].map(|name| results(&folder.path().join(name), sink));
        assert!(plenty.len() >= least, "{sink}: {} rows", plenty.len());
        assert!(plenty == little, "{sink}: {} rows and {}", plenty.len(), little.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_counted_on_two_levels_need_not_be_in_memory_together() {
    // Some 40 MiB of pairs in each window, where 32 are the least that there can be.
    let job = "
CREATE TABLE pages (user_id STRING, c BIGINT, pages BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/pages', 'format' = 'json');
CREATE TABLE twice (user_id STRING, most BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/twice', 'format' = 'json');
INSERT INTO pages SELECT user_id, COUNT(*), COUNT(DISTINCT page) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' DAY))
GROUP BY window_start, window_end, user_id HAVING COUNT(DISTINCT page) > 3;
INSERT INTO twice SELECT user_id, MAX(c) FROM (
  SELECT window_start, window_end, user_id, page, COUNT(*) AS c FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' DAY))
  GROUP BY window_start, window_end, user_id, page)
GROUP BY window_start, window_end, user_id;
";
    let folder = place(job, 100_000, 25_000, 380);
    ran(folder.path(), "plenty", None, Ending::Drain).await.expect("it runs");
    ran(folder.path(), "little", Some(0), Ending::Drain).await.expect("it runs");
    for sink in ["pages", "twice"] {
        let [plenty, little] = ["plenty", "little"].map(|name| results(&folder.path().join(name), sink));
        assert!(plenty.len() == 25_000, "{sink}: {} rows", plenty.len());
        assert!(plenty == little, "{sink}: {} rows and {}", plenty.len(), little.len());
    }
}

/// One page with many users: they cannot be read out so that all of the page come together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_in_which_many_values_are_counted_need_not_be_in_memory_whole() {
    let job = "
CREATE TABLE visitors (page STRING, c BIGINT, users BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/visitors', 'format' = 'json');
CREATE TABLE cumulated (page STRING, hours BIGINT, users BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/cumulated', 'format' = 'json');
INSERT INTO visitors SELECT SUBSTRING(page, 1, 1), COUNT(*), COUNT(DISTINCT user_id) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' DAY))
GROUP BY window_start, window_end, SUBSTRING(page, 1, 1);
INSERT INTO cumulated SELECT page, EXTRACT(HOUR FROM window_end), COUNT(DISTINCT user_id) FROM TABLE(CUMULATE(TABLE events, DESCRIPTOR(at), INTERVAL '1' HOUR, INTERVAL '2' HOUR))
GROUP BY window_start, window_end, page;
";
    let folder = place(job, 100_000, 100_000, 380);
    ran(folder.path(), "plenty", None, Ending::Drain).await.expect("it runs");
    let little = ran(folder.path(), "little", Some(0), Ending::Drain).await.expect("it runs");
    assert!(little.spilled_bytes > 10 << 20, "{}", little.spilled_bytes);
    assert_eq!(results(&folder.path().join("little"), "visitors"), [r#"{"page":"/","c":100000,"users":100000}"#]);
    let [plenty, little] = ["plenty", "little"].map(|name| results(&folder.path().join(name), "cumulated"));
    assert!(plenty.len() == 26 && plenty == little, "{plenty:?}\n{little:?}");
}

/// All rows of a window in one state: without groups, there is nothing that could be on disk by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_that_cannot_be_put_on_disk_is_told_with_the_name_of_its_query() {
    // Some 72 MiB, where half of the least memory (128 MiB) are the most that may be there. The other query is no reason.
    let job = "
CREATE TABLE lists (users BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/lists', 'format' = 'json');
CREATE TABLE pages (page STRING, c BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/pages', 'format' = 'json');
INSERT INTO lists SELECT CARDINALITY(ARRAY_AGG(user_id)) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' DAY))
GROUP BY window_start, window_end;
INSERT INTO pages SELECT page, COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' DAY))
GROUP BY window_start, window_end, page;
";
    let folder = place(job, 20_000, 20_000, 3_700);
    let error = ran(folder.path(), "little", Some(0), Ending::Drain).await.expect_err("it does not fit");
    for words in [
        "the state of query 'job:lists' has ",
        " MiB that cannot be put on disk; --memory is 128 MiB",
        "hint: give the job more --memory, or let the query keep less",
    ] {
        assert!(error.contains(words), "'{words}' in {error}");
    }
    assert!(!folder.path().join("little/lists").exists(), "there is no result of a part");
    // One of eight jobs of a process has an eighth of its memory: there as much.
    let (bytes, spill) = (1 << 30, folder.path().join("eighth/spill"));
    let eighth = MemoryOptions { bytes, spill, asked: true, jobs: 8 };
    let error = ran_within(folder.path(), "eighth", Some(eighth), Ending::Drain).await.expect_err("it does not fit");
    let words = " MiB that cannot be put on disk; --memory is 1024 MiB, of which this job may have 128";
    assert!(error.contains(words), "'{words}' in {error}");
    ran(folder.path(), "plenty", None, Ending::Drain).await.expect("it runs");
    assert_eq!(results(&folder.path().join("plenty"), "lists"), [r#"{"users":20000}"#]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_needs_its_end_must_fit_and_its_query_is_named() {
    let sinks = "
CREATE TABLE tiles (user_id STRING, q BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/tiles', 'format' = 'json');
CREATE TABLE shares (user_id STRING, p DOUBLE) WITH ('connector' = 'filesystem', 'path' = '${OUT}/shares', 'format' = 'json');
";
    let tiles = |partition: &str, quarter: u64| {
        format!(
            "INSERT INTO tiles SELECT user_id, q FROM (
  SELECT user_id, NTILE(4) OVER (PARTITION BY window_start, window_end{partition} ORDER BY n, user_id) AS q FROM counted)
WHERE q = {quarter};"
        )
    };
    // A window has some 36 MiB of rows, and each of its 13 pages less than 3: a chunk has 4 (an eighth of 32).
    let shares = "INSERT INTO shares SELECT user_id, p FROM (
  SELECT user_id, PERCENT_RANK() OVER (PARTITION BY window_start, window_end, page ORDER BY n) AS p FROM counted)
WHERE p > 0.9;";
    let job = format!("{sinks}{}{shares}", tiles(", page", 3));
    spills_and_gives_the_same(&job, &[("tiles", 4_900), ("shares", 1_000)]).await;
    let folder = place(&format!("{COUNTED}{sinks}{}", tiles("", 2)), 20_000, 20_000, 1_790);
    let error = ran(folder.path(), "little", Some(0), Ending::Drain).await.expect_err("it does not fit");
    for words in
        ["query 'job:tiles': NTILE OVER has a partition of more than 4 MiB", "hint: give the job more --memory"]
    {
        assert!(error.contains(words), "'{words}' in {error}");
    }
    ran(folder.path(), "plenty", None, Ending::Drain).await.expect("it runs");
    assert_eq!(results(&folder.path().join("plenty"), "tiles").len(), 5_000);
}

/// What it lacks it lacks each time: a job that nobody ends must end by itself, as often as it says, whatever it has done before.
#[test]
fn what_does_not_fit_is_tried_as_often_as_the_job_says_and_not_for_ever() {
    let tiles = "
CREATE TABLE tiles (user_id STRING, q BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/out', 'format' = 'json');
INSERT INTO tiles SELECT user_id, q FROM (
  SELECT user_id, NTILE(4) OVER (PARTITION BY window_start, window_end ORDER BY n, user_id) AS q FROM counted)
WHERE q = 2;";
    let lists = "
CREATE TABLE lists (users BIGINT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/out', 'format' = 'json');
INSERT INTO lists SELECT CARDINALITY(ARRAY_AGG(user_id)) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' DAY))
GROUP BY window_start, window_end;";
    let settings = "SET 'tidemill.maximum-retry-attempts' = '1'; SET 'tidemill.retry-delay' = '10 ms';";
    for (job, length, query, words) in [
        (format!("{COUNTED}{tiles}"), 1_790, "job:tiles", "NTILE OVER has a partition of more than 4 MiB"),
        (lists.to_owned(), 3_700, "job:lists", " MiB that cannot be put on disk; --memory is 128 MiB"),
    ] {
        let folder = place(&format!("{settings}{job}"), 20_000, 20_000, length);
        let path = |name: &str| folder.path().join(name).display().to_string();
        let run = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
            command.args(["run", &path("job.sql"), "--local", &path("local"), "--memory", "1MiB"]);
            command.args(["--epoch-rows", "2000", "--epoch-interval", "1h", "--checkpoint-interval", "100ms"]);
            command.args([
                "--param",
                &format!("DIR={}", folder.path().display()),
                "--param",
                &format!("OUT={}", path("local")),
            ]);
            let output = command.output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        // And it is no fault of the records: whoever starts it again, with more, is not told that they are poison.
        for _ in 0..3 {
            let (code, said) = run();
            assert_eq!(code, Some(75), "{said}");
            assert_eq!(said.matches("failed (1 of 1 retries follows").count(), 1, "{said}");
            for words in ["error[unavailable]: ", query, words, "hint: give the job more --memory"] {
                assert!(said.contains(words), "'{words}' in {said}");
            }
        }
        assert!(!folder.path().join("local/out").exists(), "there is no result of a part");
    }
}
