//! The live screen: one picture a second, drawn in place with plain ANSI on the terminal's second screen, so that what
//! was on the first is there again afterwards. And the plain lines for a log.

use std::io::Write;
use std::process::{Command, Stdio};

use super::results::{Figures, Results};
use super::text::{fit, grouped, minute, money, size, spread};
use crate::contracts::Watermark;

const MINUTE_MS: i64 = 60_000;

/// The job's own figures.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pulse {
    pub(super) now_ms: i64,
    pub(super) seconds: u64,
    pub(super) records: u64,
    pub(super) rejected: u64,
    pub(super) rate: f64,
    pub(super) watermark_ms: i64,
}

impl Pulse {
    /// When the next windows close, or why there is no answer yet.
    pub(super) fn next_close(&self) -> String {
        if self.watermark_ms == 0 {
            return "no event time yet: every shard must have had an event".to_owned();
        }
        let end = (self.watermark_ms.div_euclid(MINUTE_MS) + 1) * MINUTE_MS;
        let left = (end - self.watermark_ms + 999) / 1_000;
        let start = Watermark(end - MINUTE_MS).to_string();
        format!("the minute {} closes in {left} s (5 s after its end, for events out of order)", minute(&start))
    }

    /// What is known of a window that has not closed: when it will.
    fn first_close(&self, every_minutes: i64) -> Vec<String> {
        if self.watermark_ms == 0 {
            return vec!["no window has closed yet".to_owned()];
        }
        let every = every_minutes * MINUTE_MS;
        let end = (self.watermark_ms.div_euclid(every) + 1) * every;
        let left = (end - self.watermark_ms + 999) / 1_000;
        vec![format!("the first closes in {}:{:02}", left / 60, left % 60)]
    }
}

/// Rows and columns of the terminal, as `stty` tells them.
fn terminal_size() -> (usize, usize) {
    let output = Command::new("stty").arg("size").stdin(Stdio::inherit()).stderr(Stdio::null()).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|n| n.parse().ok()).filter(|n| *n > 0);
    match (numbers.next(), numbers.next()) {
        (Some(rows), Some(columns)) => (rows, columns),
        _ => (24, 80),
    }
}

/// A terminal whose second screen is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Screen {
    rows: usize,
    columns: usize,
}

impl Screen {
    pub(super) fn open() -> Self {
        print!("\x1b[?1049h\x1b[?25l");
        let (rows, columns) = terminal_size();
        Self { rows, columns }
    }

    /// Gives the terminal back; for an end that drops nothing.
    pub(super) fn restore() {
        print!("\x1b[?25h\x1b[?1049l");
        let _ = std::io::stdout().flush();
    }

    /// Takes note of a new size.
    pub(super) fn resized(&mut self) {
        (self.rows, self.columns) = terminal_size();
    }

    /// Whether there is room for a free line between panels.
    fn is_roomy(&self) -> bool {
        self.rows >= 30
    }

    /// Lines that a panel may have here: four rows of panels, each with a title and perhaps a free line, beside the head,
    /// the foot and the cursor's line.
    pub(super) fn panel_lines(&self) -> usize {
        let others = if self.is_roomy() { 4 + 8 + 1 } else { 3 + 4 + 1 };
        (self.rows.saturating_sub(others) / 4).clamp(1, 10)
    }

    pub(super) fn draw(&self, pulse: &Pulse, figures: &Figures, results: &Results) {
        let mut out = String::from("\x1b[H");
        let lines = picture(pulse, figures, results, self.columns.clamp(60, 120), self.panel_lines());
        let lines = lines.into_iter().filter(|line| self.is_roomy() || !line.is_empty());
        for line in lines.take(self.rows.saturating_sub(1)) {
            out.push_str(&line);
            out.push_str("\x1b[0m\x1b[K\r\n");
        }
        out.push_str("\x1b[J");
        print!("{out}");
        // A terminal that has gone will end the program by a signal.
        let _ = std::io::stdout().flush();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        Self::restore();
    }
}

fn bold(text: &str) -> String {
    format!("\x1b[1m{text}\x1b[0m")
}

fn dim(text: &str) -> String {
    format!("\x1b[2m{text}\x1b[0m")
}

struct Panel {
    title: String,
    lines: Vec<String>,
}

impl Panel {
    fn new(title: impl Into<String>, lines: Vec<String>) -> Self {
        Self { title: title.into(), lines }
    }

    /// Lines, or what is said in their place.
    fn or(mut self, otherwise: impl FnOnce() -> Vec<String>) -> Self {
        if self.lines.is_empty() {
            self.lines = otherwise();
        }
        self
    }
}

/// The whole screen, line by line.
fn picture(pulse: &Pulse, figures: &Figures, results: &Results, columns: usize, most: usize) -> Vec<String> {
    let half = (columns - 3) / 2;
    let nothing = || vec!["nothing yet".to_owned()];
    let pages = figures.pages.iter().map(|(page, views)| spread(page, &grouped(*views), half)).collect();
    let revenue = figures.revenue.iter().map(|(currency, cents, orders)| {
        spread(currency, &format!("{} orders {:>15}", grouped(*orders), money(*cents)), half)
    });
    let errors = figures.errors.iter().map(|(code, count, message)| {
        let left = format!("{code}  {message}");
        spread(&left, &grouped(*count), half)
    });
    let alerts = results.last_alerts(most).into_iter().map(|alert| alert.line.clone());
    let minute_pages = figures.minute_pages.iter().map(|(page, views, visitors)| {
        spread(page, &format!("{:>7} {:>7}", grouped(*views), grouped(*visitors)), half)
    });
    let categories = figures.categories.iter().map(|(category, cents, orders)| {
        spread(category, &format!("{} orders {:>12}", grouped(*orders), money(*cents)), half)
    });
    let top = figures.top_pages.iter().enumerate();
    let top = top.map(|(n, (page, views))| spread(&format!("{:>2}  {page}", n + 1), &grouped(*views), half));
    let of = |start: &Option<String>| start.as_deref().map_or(String::new(), |s| format!(" {}", minute(s)));
    let (finished, bytes, growing) = results.archive();
    let mut files = vec![format!("{finished} files, {}; {growing} being written", size(bytes))];
    files.push("finished at 64 MB, 300 s or the end".to_owned());
    files.push(format!("refused records: {}", grouped(pulse.rejected as i64)));
    files.extend(results.last_refusal.as_ref().map(|last| format!("last: {last}")));
    let alerts_title = format!("Alerts: {} large orders, {} error spikes", results.orders, results.spikes);
    let minutes = || pulse.first_close(1);
    let panels = [
        [
            Panel::new(format!("Page views today: {}", grouped(figures.views)), pages).or(nothing),
            Panel::new("Revenue today", revenue.collect()).or(nothing),
        ],
        [
            Panel::new("Errors this hour", errors.collect()).or(nothing),
            Panel::new(alerts_title, alerts.collect()).or(nothing),
        ],
        [
            Panel::new(
                spread(&format!("Minute{}", of(&figures.minute)), "views visitors", half),
                minute_pages.collect(),
            )
            .or(minutes),
            Panel::new(format!("Revenue by category, minute{}", of(&figures.minute)), categories.collect()).or(minutes),
        ],
        [
            Panel::new(format!("Top pages of 5 minutes{}", of(&figures.five_minutes)), top.collect())
                .or(|| pulse.first_close(5)),
            Panel::new("Archive (Parquet) and error output", files),
        ],
    ];
    let title = format!(
        "tidemill demo  {}:{:02}   {} events/s   {} events   {} refused",
        pulse.seconds / 60,
        pulse.seconds % 60,
        grouped(pulse.rate.round() as i64),
        grouped(pulse.records as i64),
        grouped(pulse.rejected as i64)
    );
    let mut lines = vec![bold(&fit(&title, columns)), dim(&fit(&pulse.next_close(), columns))];
    for [left, right] in panels {
        lines.push(String::new());
        lines.push(format!("{}   {}", bold(&fit(&left.title, half)), bold(&fit(&right.title, half))));
        let height = left.lines.len().max(right.lines.len()).min(most);
        let line = |panel: &Panel, n: usize| fit(panel.lines.get(n).map_or("", String::as_str), half);
        lines.extend((0..height).map(|n| format!("{}   {}", line(&left, n), line(&right, n))));
    }
    lines.push(String::new());
    lines.push(dim("Ctrl-C ends the demo and says where everything is"));
    lines
}

/// One line for a log.
pub(super) fn log_line(pulse: &Pulse, figures: &Figures, results: &Results) -> String {
    let total = figures.revenue.iter().find(|(currency, ..)| currency == "total");
    let (cents, orders) = total.map_or((0, 0), |(_, cents, orders)| (*cents, *orders));
    let errors: i64 = figures.errors.iter().map(|(_, count, _)| count).sum();
    format!(
        "{} events ({} /s), {} refused; today {} page views, {} orders of {}; {errors} errors this hour; {} alerts; {}",
        pulse.records,
        pulse.rate.round(),
        pulse.rejected,
        figures.views,
        orders,
        money(cents),
        results.orders + results.spikes,
        pulse.next_close()
    )
}

/// A line for each window that has closed since `before`.
pub(super) fn window_lines(before: &Figures, now: &Figures) -> Vec<String> {
    let mut lines = Vec::new();
    let first = |list: Option<String>| list.unwrap_or_else(|| "none".to_owned());
    if let Some(start) = now.minute.as_ref().filter(|_| now.minute != before.minute) {
        let page = now.minute_pages.first();
        let page = first(page.map(|(page, views, visitors)| format!("{page} ({views} views, {visitors} visitors)")));
        let category = now.categories.first();
        let category =
            first(category.map(|(name, cents, orders)| format!("{name} ({} in {orders} orders)", money(*cents))));
        lines.push(format!("minute {} has closed: first page {page}, first category {category}", minute(start)));
    }
    if let Some(start) = now.five_minutes.as_ref().filter(|_| now.five_minutes != before.five_minutes) {
        let pages: Vec<String> =
            now.top_pages.iter().take(3).map(|(page, views)| format!("{page} ({views})")).collect();
        lines.push(format!("five minutes from {} have closed: top pages {}", minute(start), pages.join(", ")));
    }
    lines
}
