//! Rules of the house that no compiler checks: who may import whom, length of files, what may not stand in
//! the source. Each rule's reason is in ARCHITECTURE.md.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The layers from the bottom up, and which of the crate's other layers each may name.
const LAYERS: [(&str, &[&str]); 10] = [
    ("contracts", &[]),
    ("formats", &["contracts"]),
    ("connectors", &["contracts", "formats"]),
    ("state", &["contracts"]),
    ("ha", &["contracts"]),
    ("operators", &["contracts", "state"]),
    ("runtime", &["contracts", "state", "operators"]),
    // The connectors' descriptions (which options and metadata there are), and how the runtime takes a watermark.
    ("sql", &["contracts", "connectors", "operators", "runtime"]),
    ("job", &["contracts", "formats", "connectors", "state", "ha", "operators", "runtime", "sql"]),
    ("cli", &["contracts", "formats", "connectors", "ha", "runtime", "sql", "job"]),
];

/// What connectors share: files of `src/connectors/` itself.
const SHARED_BY_CONNECTORS: [&str; 5] = ["options", "blocking", "line_file", "describe", "aws"];

/// Longest file, in lines.
const LONGEST: usize = 450;
/// Longer ones, and why.
const LONG: [(&str, &str); 1] =
    [("src/sql/aggregate.rs", "one decision: how each form of GROUP BY is cut; its parts call each other")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder`, by path from the top, but for what is made or downloaded.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).expect("a folder of the project");
    for entry in entries {
        let path = entry.expect("an entry").path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | ".git" | "local" | "data" | "node_modules" | "venv" | "__pycache__")
            {
                files(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

/// Files of `folder` with one of the endings, with their text; names count from the top.
fn texts(folder: &str, endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(&root().join(folder), &mut found);
    found.sort();
    let chosen = found.into_iter().filter(|path| {
        let ending = path.extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
        endings.contains(&ending.as_str())
    });
    chosen
        .filter_map(|path| {
            let name = path.strip_prefix(root()).ok()?.to_string_lossy().replace('\\', "/");
            Some((name, std::fs::read_to_string(&path).ok()?))
        })
        .collect()
}

fn sources() -> Vec<(String, String)> {
    texts("src", &["rs"])
}

/// The text without its tests and comments; lines keep their numbers.
fn code(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let tests = (0..lines.len()).find(|i| {
        lines[*i].trim() == "#[cfg(test)]" && lines.get(i + 1).is_some_and(|next| next.trim_start().starts_with("mod "))
    });
    let kept = lines[..tests.unwrap_or(lines.len())].iter();
    kept.map(|line| if line.trim_start().starts_with("//") { "" } else { line }).collect::<Vec<_>>().join("\n")
}

/// Module path of a file: `src/a/b.rs` and `src/a/b/mod.rs` are both `a::b`.
fn module(name: &str) -> Vec<String> {
    let name = name.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    name.split('/').map(str::to_owned).collect()
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// First names after `prefix`, one or a list in braces: `a` of `a::b`, `a` and `c` of `{a::b, c}`.
fn names_after(text: &str) -> Vec<&str> {
    let Some(list) = text.strip_prefix('{') else { return vec![word(text)] };
    let (mut depth, mut names, mut at_start) = (0, Vec::new(), true);
    for (index, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && !c.is_whitespace() => {
                names.push(word(&list[index..]));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

/// Every module path of the crate that the file names, at least its first two parts, and the line.
fn named(name: &str, text: &str) -> Vec<(usize, Vec<String>)> {
    let own = module(name);
    let mut found = Vec::new();
    let mut add = |at: usize, base: &[String], rest: &str| {
        let line = text[..at].matches('\n').count() + 1;
        for first in names_after(rest) {
            let mut path = base.to_vec();
            path.push(first.to_owned());
            let after = rest.strip_prefix(first).and_then(|r| r.strip_prefix("::"));
            for second in after.map(names_after).unwrap_or_default() {
                found.push((line, [path.clone(), vec![second.to_owned()]].concat()));
            }
            found.push((line, path));
        }
    };
    for (at, _) in text.match_indices("crate::") {
        // `pub(crate)` has no `::`; `$crate::` would be a macro's.
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        add(at, &[], &text[at + "crate::".len()..]);
    }
    let mut from = 0;
    while let Some(found) = text[from..].find("super::") {
        let at = from + found;
        let (mut up, mut rest) = (0, at);
        while text[rest..].starts_with("super::") {
            up += 1;
            rest += "super::".len();
        }
        // `super` of a file `a/b.rs` is `a`; a `mod.rs` and its `super` are both one higher, and so is `own`.
        let base = &own[..own.len().saturating_sub(up)];
        add(at, base, &text[rest..]);
        from = rest;
    }
    found
}

fn fail(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn layers_import_downwards_only() {
    let mut problems = Vec::new();
    let layers: BTreeSet<&str> = LAYERS.iter().map(|(name, _)| *name).collect();
    for (name, text) in sources() {
        let own = module(&name);
        if matches!(own[0].as_str(), "lib" | "main") {
            continue;
        }
        let Some((_, below)) = LAYERS.iter().find(|(layer, _)| *layer == own[0]) else {
            problems.push(format!("{name}: '{}' is no layer; add it to tests/tidy.rs and ARCHITECTURE.md", own[0]));
            continue;
        };
        for (line, path) in named(&name, &code(&text)) {
            let layer = path[0].as_str();
            if layers.contains(layer) && layer != own[0] && !below.contains(&layer) {
                problems.push(format!("{name}:{line}: '{}' may not import '{layer}'", own[0]));
            }
            let is_connector =
                own[0] == "connectors" && own.len() > 1 && !SHARED_BY_CONNECTORS.contains(&own[1].as_str());
            if is_connector && layer == "connectors" && path.len() > 1 {
                let other = path[1].as_str();
                let is_file = root().join("src/connectors").join(other).is_dir();
                if is_file && other != own[1] && !SHARED_BY_CONNECTORS.contains(&other) {
                    problems.push(format!("{name}:{line}: connector '{}' may not import connector '{other}'", own[1]));
                }
            }
        }
    }
    fail(&problems);
}

#[test]
fn the_layer_rule_sees_every_form_of_import() {
    let text =
        "use crate::contracts::{Error, Result};\nuse crate::{formats::json, state};\nlet x = super::super::sql::y();";
    let firsts: BTreeSet<String> = named("src/runtime/rows.rs", text).into_iter().map(|(_, p)| p[0].clone()).collect();
    assert_eq!(firsts.into_iter().collect::<Vec<_>>(), ["contracts", "formats", "sql", "state"]);
}

#[test]
fn files_have_one_subject_and_say_which() {
    let mut problems = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        let allowed = LONG.iter().find(|(long, _)| *long == name);
        if lines > LONGEST && allowed.is_none() {
            problems.push(format!("{name} has {lines} lines, more than {LONGEST}: what is its second subject?"));
        }
        if lines <= LONGEST && allowed.is_some() {
            problems.push(format!("{name} is short enough now: take it off the list in tests/tidy.rs"));
        }
        if !text.starts_with("//!") {
            problems.push(format!("{name} does not begin with a description"));
        }
    }
    fail(&problems);
}

#[test]
fn no_unwrap_and_no_unsafe_outside_the_vector_module() {
    let mut problems = Vec::new();
    for (name, text) in sources() {
        for (number, line) in code(&text).lines().enumerate() {
            if line.contains(".unwrap()") {
                problems.push(format!("{name}:{}: unwrap(); write expect(\"why it holds\") or an error", number + 1));
            }
            let unsafe_code =
                ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|u| line.contains(u));
            if unsafe_code && name != "src/formats/json/simd.rs" {
                problems.push(format!("{name}:{}: unsafe code belongs into src/formats/json/simd.rs", number + 1));
            }
        }
    }
    fail(&problems);
}

#[test]
fn nothing_is_left_open() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ig", "nore]"),
    ];
    let mut problems = Vec::new();
    for (name, text) in [sources(), texts("tests", &["rs", "py", "sql"]), texts("queries", &["sql"])].concat() {
        for (number, line) in text.lines().enumerate() {
            for mark in marks.iter().filter(|mark| line.contains(**mark)) {
                problems.push(format!("{name}:{}: {mark}", number + 1));
            }
        }
    }
    fail(&problems);
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let above = root().parent().map(|p| format!("{}/", p.display())).unwrap_or_default();
    let home = std::env::var("HOME").map(|home| format!("{home}/")).unwrap_or_default();
    let mut marks: Vec<String> = vec![above, home, concat!("/ro", "ot/").into(), concat!("crates", ".io").into()];
    marks.retain(|mark| mark.len() > 3);
    let endings = ["rs", "md", "sql", "py", "toml", "sh", "java", "tsv", "snap", "yml", ""];
    let mut problems = Vec::new();
    for (name, text) in texts(".", &endings) {
        for (number, line) in text.lines().enumerate() {
            for mark in marks.iter().filter(|mark| line.contains(mark.as_str())) {
                problems.push(format!("{name}:{}: '{mark}'", number + 1));
            }
        }
    }
    fail(&problems);
}

/// Tables of what fails, in which page and under which heading: their last column names the tests.
const FAILURE_TABLES: [(&str, &str); 2] =
    [("docs/reliability.md", "## What fails"), ("ARCHITECTURE.md", "## What fails")];
/// The modules of the crate and of its tests, and the text of each: `tests/a/b.rs` and `src/a/b.rs` are both `a::b`, and a `mod c` in it
/// `a::b::c`.
fn modules() -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    for (name, text) in [sources(), texts("tests", &["rs"])].concat() {
        let path = name.trim_start_matches("src/").trim_start_matches("tests/").trim_end_matches(".rs");
        let path = path.trim_end_matches("/main").trim_end_matches("/mod");
        let own: Vec<String> = path.split('/').map(str::to_owned).collect();
        for line in text.lines().filter_map(|line| line.trim_start().strip_prefix("mod ")) {
            found.push(([own.clone(), vec![word(line).to_owned()]].concat(), text.clone()));
        }
        found.push((own, text));
    }
    found
}

/// Whether a name is that of a test, a module, or a file of tests or benches. `a::b::begins_…` is what begins so.
fn is_there(name: &str, modules: &[(Vec<String>, String)]) -> bool {
    // A file, or a command that runs one.
    if let Some(file) = name.split(' ').find(|word| word.contains('/')) {
        return root().join(file).exists();
    }
    let whole = name.trim_end_matches(['…', '*']);
    let fits = |found: &str, last: &str| if whole == name { found == last } else { found.starts_with(last) };
    let path: Vec<&str> = whole.split("::").collect();
    let Some((last, above)) = path.split_last() else { return false };
    let golden = || {
        let folder = std::fs::read_dir(root().join("tests/golden")).expect("goldens").flatten();
        folder
            .map(|entry| entry.file_name())
            .any(|file| file.to_string_lossy().strip_suffix(".sql").is_some_and(|golden| fits(golden, last)))
    };
    let in_module = |(module, text): &(Vec<String>, String)| {
        let below = (0..=module.len())
            .filter(|at| module[..*at].ends_with(&above.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()));
        let mut functions = text.split("fn ").skip(1).map(word);
        below.clone().any(|at| module.get(at).is_some_and(|next| fits(next, last)))
            || (below.count() > 0 && functions.any(|function| fits(function, last)))
    };
    modules.iter().any(in_module) || (above.is_empty() && golden())
}

#[test]
fn what_fails_has_a_test_that_is_there() {
    let (modules, mut problems, mut names) = (modules(), Vec::new(), 0);
    for (page, heading) in FAILURE_TABLES {
        let text = std::fs::read_to_string(root().join(page)).expect("a page");
        let lines = text.lines().enumerate().skip_while(|(_, line)| !line.starts_with(heading)).skip(1);
        let rows = lines.take_while(|(_, line)| !line.starts_with("## ")).filter(|(_, line)| line.starts_with("| "));
        for (number, row) in rows.skip(1) {
            let at = format!("{page}:{}", number + 1);
            let Some(cell) = row.trim_end_matches('|').rsplit('|').next().map(str::trim) else { continue };
            if !cell.contains('`') && cell != "the same" {
                problems.push(format!("{at} names no test: {row}"));
            }
            let mut module = String::new();
            for name in cell.split('`').skip(1).step_by(2) {
                // `…name` stands in the module of the one before.
                let name = name.strip_prefix('…').map_or(name.to_owned(), |name| format!("{module}{name}"));
                module = name.rsplit_once("::").map_or_else(String::new, |(module, _)| format!("{module}::"));
                names += 1;
                if !is_there(&name, &modules) {
                    problems.push(format!("{at}: there is no test '{name}'"));
                }
            }
        }
    }
    fail(&problems);
    assert!(names > 80, "only {names} names");
    // The guard itself.
    for (name, there) in [
        ("tidy::what_fails_has_a_test_that_is_there", true),
        ("tidy::what_fails_has_…", true),
        ("tidy", true),
        ("tidy::what_fails_has_", false),
        ("cli::what_fails_has_a_test_that_is_there", false),
        ("nothing_of_the_kind_…", false),
        ("tests/tidy.rs", true),
        ("tests/nothing.rs", false),
        ("python3 benches/soak.py BINARY", true),
    ] {
        assert_eq!(is_there(name, &modules), there, "{name}");
    }
}
