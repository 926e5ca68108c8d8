//! Every expression of `expressions/expressions.tsv` (made by a real Flink 2.3, see its first lines) and of
//! `expressions/more.tsv` (further questions to the same Flink) gives Flink's type and value here, or stands in
//! `expressions/differences.tsv` with the reason. A difference that is not listed fails, and so does a listed
//! one that no longer differs. `EXPRESSIONS_UPDATE=1` rewrites the second column of the list (keeping reasons).
//!
//! Types are compared as far as Arrow has them: NOT NULL and the lengths of strings are left out, a TIMESTAMP
//! has the precision of its unit. Doubles are compared as numbers, decimals digit by digit.

use std::collections::BTreeMap;
use std::fmt::Write;

use support::{agrees, ask, context, parse, run, short};
use tidemill::sql::functions::FunctionOptions;

#[path = "expressions/columns.rs"]
mod columns;
#[path = "expressions/session.rs"]
mod session;
#[path = "expressions/support.rs"]
mod support;

#[tokio::test]
async fn expressions_answer_as_flink_does() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/expressions");
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).unwrap_or_default();
    let listed: BTreeMap<String, (String, String)> =
        (read("differences.tsv").lines().filter(|line| !line.starts_with('#')))
            .filter_map(|line| {
                let mut parts = line.splitn(3, '\t');
                Some((parts.next()?.to_string(), (parts.next()?.to_string(), parts.next()?.to_string())))
            })
            .collect();
    let context = context(&FunctionOptions::default());
    let table = "CREATE TABLE t AS SELECT CAST(column1 AS INT) AS x, CAST(column2 AS DECIMAL(10, 2)) AS d, CAST(column3 AS FLOAT) AS f, \
                 CAST(column4 AS STRING) AS s FROM (VALUES (1, 1.25, 0.1, 'a'), (2, 2.50, 0.2, CAST(NULL AS STRING)), (4, 3.00, 0.3, 'c'))";
    run(&context, parse(table).expect("a statement")).await.ok();

    let (mut agree, mut differ, mut problems, mut update) = (0, 0, vec![], String::new());
    for file in ["expressions.tsv", "more.tsv"] {
        let mut source = "";
        for line in read(file).lines() {
            if line.starts_with('#') {
                source = if line.contains("Aggregates over") { " FROM t" } else { source };
                continue;
            }
            let mut parts = line.splitn(3, '\t');
            let (Some(expression), Some(flinks_type), Some(flinks_value)) = (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            let ours = ask(&context, &format!("SELECT {expression} AS v{source}")).await;
            let same = agrees(&ours, flinks_type, flinks_value);
            if same {
                agree += 1
            } else {
                differ += 1
            }
            match (same, listed.get(expression)) {
                (true, None) => {}
                (true, Some(_)) => problems.push(format!("no longer differs, take it off the list: {expression}")),
                (false, entry) => {
                    let reason = entry.map_or("", |(_, reason)| reason.as_str());
                    let _ = writeln!(update, "{expression}\t{}\t{reason}", short(&ours));
                    match entry {
                        None => problems.push(format!(
                            "{expression}\n    ours  {}\n    flink {flinks_type} {flinks_value}",
                            short(&ours)
                        )),
                        Some((known, _)) if *known != short(&ours) => {
                            problems.push(format!("{expression}\n    ours  {}\n    list  {known}", short(&ours)));
                        }
                        Some(_) => {}
                    }
                }
            }
        }
    }
    if std::env::var_os("EXPRESSIONS_UPDATE").is_some() {
        let head: String = read("differences.tsv")
            .lines()
            .filter(|line| line.starts_with('#'))
            .map(|line| format!("{line}\n"))
            .collect();
        std::fs::write(format!("{folder}/differences.tsv"), head + &update).expect("the list is writable");
    }
    println!("{} expressions: {agree} agree with Flink, {differ} differ", agree + differ);
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}
