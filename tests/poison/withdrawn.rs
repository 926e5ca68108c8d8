//! Results that the sink does not get: what it had before of their key does not stay there.

use super::*;

const COUNTS: &str = "SET 'table.exec.sink.not-null-enforcer' = 'DROP';
CREATE TABLE clicks (n BIGINT, s STRING) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
CREATE TABLE counts (k STRING NOT NULL, c BIGINT NOT NULL, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
INSERT INTO counts SELECT 'all', NULLIF(COUNT(*), 2) FROM clicks;
";

/// The table does not take the count of two. Whether the one before was given in an epoch of its own does not show.
#[test]
fn a_result_that_is_dropped_for_its_null_withdraws_the_one_before() {
    for runs in [&[1_usize, 1, 1][..], &[2, 1], &[1, 2]] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        std::fs::write(folder.join("job.sql"), COUNTS).unwrap();
        let mut count = 0_usize;
        for more in runs {
            produce(folder, count..count + more);
            count += more;
            let done = program(folder, &["run", "job.sql", "--local", "local", "--once"]).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let expected = (count != 2).then_some(count as i64);
            assert_eq!(number(folder, "SELECT c FROM counts"), expected, "{count} of {runs:?}");
        }
    }
}

const SHARES: &str = "CREATE TABLE clicks (n BIGINT, s STRING) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
CREATE TABLE shares (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'shares');
INSERT INTO shares SELECT CASE WHEN n >= 0 THEN 'all' ELSE 'none' END, 10 / (COUNT(*) - 2) FROM clicks
GROUP BY CASE WHEN n >= 0 THEN 'all' ELSE 'none' END HAVING COUNT(*) > 0;
";

/// A result that fails has never been given. So it fails once more when it is withdrawn, which says nothing new.
#[test]
fn a_result_that_fails_is_refused_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("job.sql"), SHARES).unwrap();
    for (count, expected, failed) in [(1, Some(-10), 0), (2, None, 1), (3, Some(10), 1), (4, Some(5), 1)] {
        produce(folder, count - 1..count);
        let done = program(folder, &["run", "job.sql", "--local", "local", "--once"]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(number(folder, "SELECT c FROM shares"), expected, "{count}");
        assert_eq!(refused(folder, "shares").len(), failed, "{count}: {:?}", refused(folder, "shares"));
    }
}

/// It does not count twice for the most rows that may fail, either.
#[test]
fn a_result_that_fails_and_is_withdrawn_is_one_row_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let shares = SHARES.replace("(COUNT(*) - 2)", "((COUNT(*) - 2) * (COUNT(*) - 3))");
    assert_ne!(shares, SHARES);
    std::fs::write(folder.join("job.sql"), format!("SET 'tidemill.maximum-failed-rows' = '1';\n{shares}")).unwrap();
    for (count, expected, failed) in [(1, Some(5), 0), (2, None, 1), (3, None, 2), (4, Some(5), 2)] {
        produce(folder, count - 1..count);
        let done = program(folder, &["run", "job.sql", "--local", "local", "--once"]).output().unwrap();
        assert!(done.status.success(), "{count}: {}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(number(folder, "SELECT c FROM shares"), expected, "{count}");
        assert_eq!(refused(folder, "shares").len(), failed, "{count}");
    }
}
