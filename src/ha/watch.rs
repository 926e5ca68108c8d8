//! What somebody who does not have a lease sees of it, look after look.

use std::time::Duration;

use super::term::{PAUSES_A_BEAT, Times};
use crate::contracts::{Lease, Outage};

/// What was seen of a lease, and since when it is so, on the clock of the one who looks.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: Option<Seen>,
    /// There is no answer, or a refusal.
    silence: Option<Outage>,
    /// Since when looks have been refused.
    refused: Option<Duration>,
}

/// A silence is told when it has lasted for so long.
pub(super) const SILENCE_IS_TOLD_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Seen {
    lease: Option<Lease>,
    since: Duration,
    /// It was otherwise when it was looked at before.
    changed: bool,
}

/// What a look at a lease shows.
#[derive(Debug)]
pub(super) enum Look {
    /// It may be taken: there was none, it was given back, or its holder has been silent for too long.
    Free {
        /// What is stored.
        lease: Option<Lease>,
        /// Since when it may be taken.
        since: Duration,
    },
    /// Somebody has it.
    Held(Lease),
}

impl Watch {
    /// There was no answer. Says for how long, when it is time to tell somebody.
    pub(super) fn heard_nothing(&mut self, now: Duration) -> Option<Duration> {
        self.silence.get_or_insert(Outage::new(now, SILENCE_IS_TOLD_AFTER)).to_tell(now)
    }

    /// The look was refused. Whether that may pass: it has not lasted for as long as a leader would bear it, and there was an answer before. A
    /// first look that is refused is a person's mistake.
    pub(super) fn bears_refusal(&mut self, now: Duration, ttl: Duration) -> bool {
        self.seen.is_some() && now.saturating_sub(*self.refused.get_or_insert(now)) < ttl
    }

    pub(super) fn saw(&mut self, lease: Option<Lease>, now: Duration, ttl: Duration) -> Look {
        (self.silence, self.refused) = (None, None);
        let seen = match self.seen.take() {
            Some(seen) if seen.lease == lease => seen,
            before => Seen { lease, since: now, changed: before.is_some() },
        };
        let since = seen.since;
        let look = match &seen.lease {
            Some(lease) if !lease.released && now.saturating_sub(since) < ttl => Look::Held(lease.clone()),
            Some(lease) if !lease.released => Look::Free { lease: Some(lease.clone()), since: since + ttl },
            lease => Look::Free { lease: lease.clone(), since },
        };
        self.seen = Some(seen);
        look
    }

    /// Since when it is as it was seen last.
    pub(super) fn since(&self) -> Option<Duration> {
        self.seen.as_ref().map(|seen| seen.since)
    }

    /// Whether somebody has written what was seen last since this watch began: only then it is known that they live.
    pub(super) fn has_changed(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.changed)
    }

    /// A beat, or less if the lease may be taken before. Who gets no answer does not ask without a pause.
    pub(super) fn until_next_look(&self, now: Duration, Times { ttl, beat }: Times) -> Duration {
        let least = if self.silence.is_some() { beat / PAUSES_A_BEAT } else { Duration::from_millis(1) };
        let held = self.seen.as_ref().filter(|seen| seen.lease.is_some());
        held.map_or(beat, |seen| (seen.since + ttl).saturating_sub(now).max(least).min(beat))
    }
}
