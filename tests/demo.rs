//! `tidemill demo` from end to end, as a program without a terminal.

use std::process::Command;

#[test]
fn the_demo_runs_counts_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("demo");
    let output = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .args(["demo", "--seconds", "5", "--rate", "500/s", "--local"])
        .arg(&local)
        // The demo uses its own names, whatever stands in the environment.
        .env("METRICS_TABLE", "elsewhere")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(!text.contains('\x1b'), "no control sequences in a log:\n{text}");

    // The last line of figures: "2000 events (…); today 1700 page views, …"
    let figures = text.lines().rfind(|line| line.contains(" page views, ")).unwrap_or_else(|| panic!("{text}"));
    let number = |before: &str| -> u64 {
        let head = figures.split(before).next().unwrap_or_default();
        head.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no '{before}' in: {figures}"))
    };
    assert!(number(" events (") > 100, "{figures}");
    assert!(number(" page views") > 50, "{figures}");
    assert!(number(" orders of") > 0, "{figures}");
    assert!(text.contains("query page_views:metrics"), "the summary:\n{text}");

    for file in ["queries/events.sql", "queries/products.csv", "dynamodb.sqlite", "checkpoints", "s3"] {
        assert!(local.join(file).exists(), "{file}");
    }
}
