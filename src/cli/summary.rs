//! What a run has done, in its last lines.

use std::fmt::Write;

use super::log::write_summary;
use crate::runtime::Summary;

/// What a run did, for people and for scripts that read its last lines.
/// `of` says whose, where a process runs several.
pub(super) fn print_summary(of: &str, summary: &Summary) {
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = lines(&mut text, of, summary);
    write_summary(&text);
}

fn lines(text: &mut String, of: &str, summary: &Summary) -> std::fmt::Result {
    let seconds = summary.elapsed.as_secs_f64();
    let records = summary.records();
    let rate = if seconds > 0.0 { records as f64 / seconds } else { 0.0 };
    writeln!(text, "{of}{records} records in {seconds:.2} s ({rate:.0} events/s), {} epochs", summary.epochs)?;
    for table in &summary.tables {
        let rejected: u64 = table.rejected.values().sum();
        let reasons = reasons(&table.rejected);
        let with = table.read_with.as_ref().map(|other| format!(" (read with {other})")).unwrap_or_default();
        writeln!(
            text,
            "  table {}: {} records{with}, {} decoded, {rejected} rejected{reasons}, {} skipped",
            table.name, table.records, table.decoded, table.skipped
        )?;
    }
    for query in &summary.queries {
        let rejected: u64 = query.rejected.values().sum();
        let refused: u64 = query.refused.values().sum();
        writeln!(
            text,
            "  query {}: {} rows in, {} used, {} late, {rejected} rejected{}, {} rows out, {refused} refused{}",
            query.name,
            query.rows_in,
            query.used,
            query.late,
            reasons(&query.rejected),
            query.rows_out,
            reasons(&query.refused)
        )?;
    }
    if summary.spilled_bytes > 0 {
        writeln!(text, "  memory: {} of state were put on disk", bytes(summary.spilled_bytes))?;
    }
    if let Some(counts) = &summary.checkpoints {
        let failed = if counts.failed > 0 { format!(", {} failed", counts.failed) } else { String::new() };
        writeln!(
            text,
            "  checkpoints: {}{failed}, {} written, {} kept, {} ms each, {} ms the longest",
            counts.checkpoints,
            bytes(counts.written_bytes),
            bytes(counts.total_bytes),
            counts.together.as_millis() / u128::from(counts.checkpoints.max(1)),
            counts.longest.as_millis()
        )?;
    }
    Ok(())
}

/// `17 B`, `1.5 KiB`, `2.3 GiB`.
pub(super) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (count.max(1).ilog2() / 10).min(4);
    match power {
        0 => format!("{count} B"),
        _ => format!("{:.1} {}", count as f64 / 1024_f64.powi(power as i32), units[power as usize]),
    }
}

fn reasons(counts: &std::collections::BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let list: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    format!(" ({})", list.join(", "))
}
