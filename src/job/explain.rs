//! A planned job for people and for programs.

use datafusion::physical_plan::displayable;
use serde_json::{Value, json};

use crate::operators::{ChangeMode, GateKind, Stage};
use crate::sql::{JobPlan, QueryPlan};

fn mode(query: &QueryPlan) -> &'static str {
    match query.graph.mode {
        ChangeMode::Append => "append",
        ChangeMode::Upsert | ChangeMode::Delta => "update",
    }
}

fn late(query: &QueryPlan) -> bool {
    query.gates.iter().any(|gate| matches!(gate, GateKind::Late))
}

fn requires(query: &QueryPlan) -> Vec<&str> {
    let reason = |gate: &GateKind| match gate {
        GateKind::Require(_) => true,
        GateKind::Late => false,
    };
    let gates = query.gates.iter().filter(|gate| reason(gate));
    gates.filter_map(|gate| if let GateKind::Require(text) = gate { Some(text.as_str()) } else { None }).collect()
}

/// DataFusion's plans between a query's operators: what each epoch runs.
fn stages(query: &QueryPlan) -> Vec<(String, Vec<String>)> {
    let operators = query.graph.operators.iter().enumerate();
    let below = operators.map(|(number, operator)| (format!("below state {}", number + 1), &operator.input));
    let named = below.chain([("to the sink".to_owned(), &query.graph.root)]);
    let lines = |stage: &Stage| {
        let text = displayable(stage.plan.as_ref()).indent(false).to_string();
        text.lines().map(|l| l.replace(['\u{1}', '\u{2}'], "")).collect()
    };
    named.map(|(name, stage)| (name, lines(stage))).collect()
}

/// A tree for each query; with `physical`, also the plans that an epoch runs.
pub fn explain_text(plan: &JobPlan, physical: bool) -> String {
    let mut out = String::new();
    let mut line = |indent: usize, text: &str| {
        out.push_str(&"  ".repeat(indent));
        out.push_str(text);
        out.push('\n');
    };
    for query in &plan.queries {
        line(0, &format!("{} ({})", query.name, mode(query)));
        let key = match query.sink.spec.primary_key.as_slice() {
            [] => String::new(),
            keys => format!(", key ({})", keys.join(", ")),
        };
        line(1, &format!("sink: {} ({}{key})", query.sink.name, query.sink.connector));
        for (number, note) in query.notes.iter().enumerate() {
            line(1, &format!("state {}: {note}", number + 1));
        }
        if query.notes.is_empty() {
            line(1, "state: none");
        }
        for lookup in super::lookups::explain(plan, query) {
            line(1, &format!("looks up {lookup}"));
        }
        if late(query) {
            line(1, "late rows: counted, not used");
        }
        for reason in requires(query) {
            line(1, &format!("require: rows that fail go to the error output with '{reason}'"));
        }
        for (table, columns) in &query.reads {
            line(1, &format!("reads {table}: {}", columns.join(", ")));
        }
        line(1, "steps:");
        for step in query.logical.lines() {
            line(2, &step.replace(['\u{1}', '\u{2}'], ""));
        }
        if physical {
            for (name, steps) in stages(query) {
                line(1, &format!("stage {name}:"));
                steps.iter().for_each(|step| line(2, step));
            }
        }
        line(0, "");
    }
    for source in &plan.sources {
        let columns: Vec<_> = source.spec.schema.fields().iter().map(|f| f.name().as_str()).collect();
        line(0, &format!("table {} ({}): decodes {}", source.name, source.connector, columns.join(", ")));
        if let Some(text) = &source.literal {
            line(1, &format!("records without \"{text}\" are skipped unparsed"));
        }
    }
    out
}

/// The same for programs.
pub fn explain_json(plan: &JobPlan) -> Value {
    let query = |query: &QueryPlan| {
        let logical: Vec<String> = query.logical.lines().map(|l| l.replace(['\u{1}', '\u{2}'], "")).collect();
        json!({
            "query": query.name,
            "mode": mode(query),
            "sink": { "table": query.sink.name, "connector": query.sink.connector, "primary_key": query.sink.spec.primary_key },
            "state": query.notes,
            "lookups": super::lookups::explain(plan, query),
            "drops_late_rows": late(query),
            "requires": requires(query),
            "reads": query.reads,
            "steps": logical,
        })
    };
    let sources = plan.sources.iter().map(|source| {
        let columns: Vec<_> = source.spec.schema.fields().iter().map(|f| f.name().clone()).collect();
        json!({
            "table": source.name,
            "connector": source.connector,
            "decodes": columns,
            "skips_records_without": source.literal,
            "idle_timeout_ms": source.idle_timeout_ms,
        })
    });
    json!({
        "queries": plan.queries.iter().map(query).collect::<Vec<_>>(),
        "tables": sources.collect::<Vec<_>>(),
        "warnings": plan.warnings,
    })
}
