//! Wrong SQL: what each `errors/*.sql` (or folder) is told, as `errors/expected/<name>.txt` has it.
//!
//! `TIDEMILL_REGENERATE=1` writes the texts anew: read the difference.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemill::contracts::Error;
use tidemill::job::{JobOptions, plan};
use tidemill::runtime::Ending;

/// Relative to the package: no machine's path must get into a message.
const FOLDER: &str = "tests/errors";

#[tokio::test]
async fn wrong_sql_is_explained() {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(FOLDER)
        .expect("the folder of wrong files")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| match path.is_dir() {
            true => !path.ends_with("expected"),
            false => path.extension().is_some_and(|e| e == "sql"),
        })
        .collect();
    cases.sort();
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    let regenerate = std::env::var_os("TIDEMILL_REGENERATE").is_some();
    let (mut problems, mut expected) = (Vec::new(), BTreeMap::new());
    for path in cases {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let options = options(&path);
        // A panic in one must not hide the others.
        let outcome = tokio::spawn(async move { plan(&options, &Arc::default()).await.map(|_| ()) }).await;
        let text = match outcome {
            Err(_) => {
                problems.push(format!("{name}: panics"));
                continue;
            }
            Ok(Ok(())) => {
                problems.push(format!("{name}: is accepted"));
                continue;
            }
            Ok(Err(errors)) => {
                problems.extend(errors.iter().flat_map(faults).map(|fault| format!("{name}: {fault}")));
                errors.iter().map(|error| format!("error: {error}\n")).collect::<Vec<_>>().join("\n")
            }
        };
        let file = Path::new(FOLDER).join("expected").join(format!("{name}.txt"));
        if regenerate {
            std::fs::create_dir_all(file.parent().unwrap_or(&file)).expect("the folder of texts");
            std::fs::write(&file, &text).expect("a text");
        } else if std::fs::read_to_string(&file).unwrap_or_default() != text {
            problems.push(format!("{name}: the text has changed:\n{text}"));
        }
        expected.insert(name, file);
    }
    for entry in std::fs::read_dir(Path::new(FOLDER).join("expected")).expect("texts").flatten() {
        let name = entry.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !expected.contains_key(&name) {
            problems.push(format!("{name}: has a text, but no file"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn options(path: &Path) -> JobOptions {
    JobOptions {
        paths: vec![path.to_owned()],
        local: None,
        ending: Ending::Run,
        from: None,
        parameters: BTreeMap::new(),
        fresh: false,
        state: Default::default(),
        threads: 1,
        epoch_interval: None,
        epoch_rows: None,
        memory: None,
    }
}

/// What no message may lack or have.
fn faults(error: &Error) -> Vec<String> {
    let text = error.to_string();
    let mut faults = Vec::new();
    // Nothing can be pointed at where there is no file.
    let has_file = !text.contains("no .sql file");
    if has_file && !is_placed(&text) {
        faults.push(format!("has no file, line, column and caret: {text}"));
    }
    let lower = text.to_lowercase();
    for word in
        ["internal error", "datafusion", "this was likely caused by a bug", "schema error", "utf8", "sql parser"]
    {
        if lower.contains(word) {
            faults.push(format!("says '{word}': {text}"));
        }
    }
    for path in [env!("CARGO_MANIFEST_DIR"), "/root", "/home"] {
        if text.contains(path) {
            faults.push(format!("shows a machine's path: {text}"));
        }
    }
    faults
}

/// `file.sql:line:column: …`, and a caret below the line.
fn is_placed(text: &str) -> bool {
    let Some((_, rest)) = text.split_once(".sql:") else { return false };
    let mut parts = rest.splitn(3, ':');
    let is_number = |part: Option<&str>| part.is_some_and(|p| p.parse::<u32>().is_ok_and(|n| n > 0));
    is_number(parts.next()) && is_number(parts.next()) && text.contains("| ") && text.contains('^')
}
