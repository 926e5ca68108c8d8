//! Results that depend on each other, by a window function or an aggregation above windows: none is left out for what fails over all of them,
//! since the others would have other values then.

use super::*;

/// A job whose view `pages` counts each page of each country.
fn job(query: &str) -> String {
    format!(
        "CREATE TABLE events (page STRING, country STRING, s STRING, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at - INTERVAL '10' MINUTE)
WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/in', 'format' = 'json');
CREATE TABLE given (country STRING, given BIGINT) WITH ('connector' = 'filesystem', 'path' = '${{DIR}}/given', 'format' = 'json');
CREATE VIEW pages AS SELECT window_start, window_end, country, page, COUNT(*) AS c, MAX(s) AS s
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' HOUR)) GROUP BY window_start, window_end, country, page;
INSERT INTO given {query};"
    )
}

/// What is left of a country's views without a page's, in relation to that: nothing is left where there is one page.
const SHARES: &str = "SELECT country, 100 * c / (total - c) FROM (
  SELECT country, c, SUM(c) OVER (PARTITION BY window_start, window_end, country) AS total FROM pages)";
const MEANS: &str = "SELECT country, SUM(c) / (COUNT(*) - 1) FROM pages GROUP BY window_start, window_end, country";
const SUMS: &str =
    "SELECT country, SUM(CAST(s AS BIGINT)) OVER (PARTITION BY window_start, window_end, country) FROM pages";

/// In each country but the last, pages a, b and c are seen once, and d four times.
fn place_views(query: &str, with_single_page: bool) -> tempfile::TempDir {
    let folder = place(&job(query), std::iter::empty());
    let mut text = String::new();
    let mut view = |page: &str, country: &str, s: &str| {
        let record = format!(r#""page":"{page}","country":"{country}","s":"{s}""#);
        writeln!(text, r#"{{{record},"at":"2026-03-01T00:10:00Z"}}"#).unwrap();
    };
    for country in ["DE", "FR", "IT"] {
        let s = if country == "FR" { "none" } else { "1" };
        for (page, s) in [("a", "1"), ("b", s), ("c", "1"), ("d", "1"), ("d", "1"), ("d", "1"), ("d", "1")] {
            view(page, country, s);
        }
    }
    if with_single_page {
        view("a", "LI", "1");
    }
    std::fs::write(folder.path().join("in/a.jsonl"), text).unwrap();
    folder
}

fn given(folder: &Path) -> Vec<(String, i64)> {
    let number = |line: &String| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        (line["country"].as_str().unwrap().to_owned(), line["given"].as_i64().unwrap())
    };
    let mut given: Vec<_> = lines(&folder.join("given")).iter().map(number).collect();
    given.sort();
    given
}

fn of_each(countries: &[&str], numbers: &[i64]) -> Vec<(String, i64)> {
    countries.iter().flat_map(|country| numbers.iter().map(|number| ((*country).to_owned(), *number))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_result_is_left_out_for_what_fails_over_several_of_them() {
    for variant in VARIANTS {
        // 100 / 6, and 400 / 3; 7 / 3.
        for (query, numbers) in [(SHARES, &[16, 16, 16, 133][..]), (MEANS, &[2][..])] {
            let folder = place_views(query, false);
            ran(folder.path(), variant).await.unwrap_or_else(|e| panic!("[{variant}] {e}"));
            assert_eq!(given(folder.path()), of_each(&["DE", "FR", "IT"], numbers), "[{variant}] {query}");

            let folder = place_views(query, true);
            let error = ran(folder.path(), variant).await.expect_err("it divides by zero");
            assert!(error.contains("query 'job:given'") && error.contains("zero"), "[{variant}] {error}");
            assert_eq!(given(folder.path()).len(), 0, "[{variant}] {query}");
            assert_eq!(refused(folder.path(), "given").len(), 0, "[{variant}] {query}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_fails_by_itself_below_a_window_function_is_left_out() {
    for variant in VARIANTS {
        let folder = place_views(SUMS, false);
        ran(folder.path(), variant).await.unwrap_or_else(|e| panic!("[{variant}] {e}"));
        let wanted = [of_each(&["DE"], &[4; 4]), of_each(&["FR"], &[3; 3]), of_each(&["IT"], &[4; 4])].concat();
        assert_eq!(given(folder.path()), wanted, "[{variant}]");
        let refused = refused(folder.path(), "given");
        assert_eq!(refused.len(), 1, "[{variant}] {refused:?}");
        assert!(refused[0]["record"].as_str().unwrap().contains("none"), "[{variant}] {}", refused[0]);
    }
}
