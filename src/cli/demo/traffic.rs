//! Visitors of a web shop: events as JSON, from a seed.
//!
//! Most events are page views; one in ten is a purchase. Errors are rare, with a burst of one code now and then. A few
//! records are bad in one of the ways that a real stream is bad. Timestamps are those of the clock, some a little out of
//! order, and a very few far too late.

use arrow::datatypes::TimeUnit;

use crate::connectors::kinesis::produce::OutRecord;
use crate::contracts::{SPLITMIX64_STEP, splitmix64};
use crate::formats::datetime::{TimestampStyle, write_timestamp};

/// Seeded random numbers.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        let number = splitmix64(self.0);
        self.0 = self.0.wrapping_add(SPLITMIX64_STEP);
        number
    }

    /// From 0 to below 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

const USERS: u64 = 20_000;
/// As many as `products.csv` knows, and some that it does not.
const PRODUCTS: u64 = 5_000;
const PRODUCT_PAGES: usize = 240;
const FRONT_PAGES: &[&str] =
    &["/", "/shop", "/search", "/cart", "/sale", "/checkout", "/account", "/help", "/blog", "/about"];
const REFERRERS: &[&str] =
    &["https://www.google.com/", "https://news.example.org/", "direct", "newsletter", "https://t.example/"];
const DEVICES: &[&str] = &["mobile", "mobile", "mobile", "desktop", "desktop", "tablet"];
const CURRENCIES: &[&str] = &["USD", "USD", "USD", "USD", "USD", "USD", "USD", "EUR", "EUR", "GBP"];
const ERRORS: &[(u32, &str)] = &[
    (500, "internal error in checkout"),
    (502, "upstream closed the connection"),
    (503, "service unavailable"),
    (504, "upstream timed out"),
    (400, "bad request: field is missing"),
    (401, "token has expired"),
    (404, "page not found"),
    (429, "too many requests, slow down"),
];

/// Errors that bursts are made of, the first ones of [`ERRORS`].
const BURST_CODES: u64 = 4;
/// All codes together, a second; well below 10 a minute for each code, which would be an alert.
const ERRORS_A_SECOND: f64 = 0.4;
const BURST_SHARE: f64 = 0.05;
const FIRST_BURST_MS: i64 = 8_000;
/// Mean amount in cents: some 2 of 1,000 orders are above 500, which is an alert.
const MEAN_CENTS: f64 = 8_000.0;
const BAD_SHARE: f64 = 1.0 / 1_500.0;
const LATE_SHARE: f64 = 1.0 / 5_000.0;

/// A burst of one error.
#[derive(Debug, Clone, Copy)]
struct Burst {
    from_ms: i64,
    until_ms: i64,
    error: usize,
}

/// Makes events.
#[derive(Debug)]
pub(super) struct Traffic {
    dice: Dice,
    /// Running sums of the pages' weights: the n-th is seen 1/n as often as the first.
    pages: Vec<f64>,
    error_share: f64,
    burst: Burst,
    number: u64,
}

impl Traffic {
    /// Events from `seed`, of which about `rate` will be asked for each second, from `now_ms` on.
    pub(super) fn new(seed: u64, rate: f64, now_ms: i64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=FRONT_PAGES.len() + PRODUCT_PAGES).map(|n| {
            sum += 1.0 / n as f64;
            sum
        });
        let pages = weights.collect();
        let mut dice = Dice(seed);
        let burst = burst(&mut dice, now_ms + FIRST_BURST_MS);
        Self { dice, pages, error_share: (ERRORS_A_SECOND / rate).min(0.02), burst, number: 0 }
    }

    /// The next event, at `now_ms`.
    pub(super) fn event(&mut self, now_ms: i64) -> OutRecord {
        if now_ms >= self.burst.until_ms {
            let pause = 30_000 + self.dice.below(40_000) as i64;
            self.burst = burst(&mut self.dice, now_ms + pause);
        }
        self.number += 1;
        let id = format!("{:08x}-{:04x}-{:012x}", self.dice.next() >> 32, self.dice.below(1 << 16), self.number);
        let delay = match self.dice.unit() {
            u if u < LATE_SHARE => 70_000 + self.dice.below(120_000),
            u if u < 0.1 => self.dice.below(3_000),
            _ => self.dice.below(150),
        };
        let mut time = Vec::with_capacity(24);
        let event_ms = now_ms - delay as i64;
        write_timestamp(event_ms, TimeUnit::Millisecond, true, TimestampStyle::Rfc3339Millis, &mut time);
        let time = String::from_utf8_lossy(&time).into_owned();
        // The smaller of two: some people come often.
        let user = format!("user-{:06}", self.dice.below(USERS).min(self.dice.below(USERS)));
        let in_burst = (self.burst.from_ms..self.burst.until_ms).contains(&now_ms);
        let (kind, data, key) = if in_burst && self.dice.chance(BURST_SHARE) {
            ("error", self.error(self.burst.error), id.clone())
        } else if self.dice.chance(self.error_share) {
            let error = self.dice.below(ERRORS.len() as u64) as usize;
            ("error", self.error(error), id.clone())
        } else {
            match self.dice.below(100) {
                0..10 => ("purchase", self.purchase(&user), user),
                10..12 => ("newsletter_signup", format!(r#"{{"user_id":"{user}","list":"weekly"}}"#), user),
                _ => ("page_view", self.page_view(&user), user),
            }
        };
        let mut text = format!(r#"{{"event_id":"{id}","event_type":"{kind}","timestamp":"{time}","data":{data}}}"#);
        if self.dice.chance(BAD_SHARE) {
            text = self.bad(text, &id, &time);
        }
        OutRecord::new(text.into_bytes(), key)
    }

    fn page_view(&mut self, user: &str) -> String {
        let at = self.dice.unit() * self.pages.last().copied().unwrap_or(1.0);
        let page = self.pages.partition_point(|sum| *sum < at);
        let page = match FRONT_PAGES.get(page) {
            Some(page) => (*page).to_owned(),
            None => format!("/shop/product-{:05}.html", (page - FRONT_PAGES.len()) * 17),
        };
        let (referrer, device) = (self.dice.pick(REFERRERS), self.dice.pick(DEVICES));
        format!(r#"{{"user_id":"{user}","page":"{page}","referrer":"{referrer}","device":"{device}"}}"#)
    }

    fn purchase(&mut self, user: &str) -> String {
        let cents = 199.0 - MEAN_CENTS * (1.0 - self.dice.unit()).ln();
        let cents = (cents as u64).min(999_999);
        let cents = if self.dice.chance(0.5) { cents / 100 * 100 + 99 } else { cents };
        let (product, currency) = (self.dice.below(PRODUCTS), self.dice.pick(CURRENCIES));
        format!(
            r#"{{"user_id":"{user}","product_id":"product-{product:05}","amount":{}.{:02},"currency":"{currency}"}}"#,
            cents / 100,
            cents % 100
        )
    }

    fn error(&mut self, index: usize) -> String {
        let (code, message) = ERRORS[index];
        format!(r#"{{"error_code":"{code}","message":"{message} (host-{:02})"}}"#, self.dice.below(50))
    }

    /// A record as it should not be.
    fn bad(&mut self, good: String, id: &str, time: &str) -> String {
        let purchase = |amount: &str, time: &str| {
            format!(
                r#"{{"event_id":"{id}","event_type":"purchase","timestamp":"{time}","data":{{"user_id":"user-000001",{amount}"currency":"USD"}}}}"#
            )
        };
        match self.dice.below(4) {
            0 => good[..good.len() / 2].to_owned(),
            1 => purchase(r#""amount":"free","#, time),
            2 => purchase(r#""amount":9.99,"#, "yesterday"),
            _ => purchase("", time),
        }
    }
}

fn burst(dice: &mut Dice, from_ms: i64) -> Burst {
    let until_ms = from_ms + 4_000 + dice.below(6_000) as i64;
    Burst { from_ms, until_ms, error: dice.below(BURST_CODES) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_minute(seed: u64) -> Vec<OutRecord> {
        let start_ms = 1_770_890_400_000;
        let mut traffic = Traffic::new(seed, 1_000.0, start_ms);
        (0..60_000).map(|n| traffic.event(start_ms + n)).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_events() {
        let texts = |seed| a_minute(seed).into_iter().map(|r| r.data).collect::<Vec<_>>();
        assert_eq!(texts(1), texts(1));
        assert_ne!(texts(1), texts(2));
    }

    #[test]
    fn a_minute_has_some_of_everything() {
        let (mut bad, mut views, mut large) = (0, 0, 0);
        let mut errors = std::collections::BTreeMap::<String, u32>::new();
        for record in a_minute(1) {
            let Ok(event) = serde_json::from_slice::<serde_json::Value>(&record.data) else {
                bad += 1;
                continue;
            };
            let data = &event["data"];
            match event["event_type"].as_str() {
                Some("page_view") => views += 1,
                Some("error") => *errors.entry(data["error_code"].as_str().unwrap().to_owned()).or_default() += 1,
                Some("purchase") => large += u32::from(data["amount"].as_f64().is_some_and(|a| a > 500.0)),
                _ => {}
            }
        }
        assert!(bad > 0 && views > 45_000 && large > 0, "{bad} {views} {large}");
        let spikes = errors.values().filter(|count| **count >= 10).count();
        assert!((1..=2).contains(&spikes), "{errors:?}");
    }
}
