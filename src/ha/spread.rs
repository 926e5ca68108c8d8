//! Which of a fleet's jobs a process should have: a rule over what it sees of their leases, and nothing else. No registry
//! of processes, no leader among them, no clock.
//!
//! A process counts the jobs of each one that it sees, itself included. Where another has at least two more, it wishes for
//! one of its jobs; the other one gives it away if it sees the same. So:
//!
//! - **It ends.** A move takes a job from a process with `b` jobs to one with `a`, `b >= a + 2`, and the sum of the squares of
//!   all loads falls by `2 (b - a - 1) >= 2`. That the giver asks too makes this hold where several wish for its jobs at a time.
//!   A process that sees only some of the jobs sees at most what another one has, so it holds for processes that were given
//!   different jobs as well.
//! - **It rests** when loads differ by one at most: then nobody wishes. (With a difference of 1, two processes with three jobs
//!   would pass one of them to and fro for ever.)
//!
//! A load is a number of jobs, whatever they cost.

use std::collections::BTreeMap;

use crate::contracts::splitmix64;

/// Least difference of two loads at which a job moves.
const DIFFERENCE: usize = 2;

/// How jobs are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Least difference of two loads at which a job moves. Less than 2 never rests.
    pub difference: usize,
}

impl Default for Spread {
    fn default() -> Self {
        Self { difference: DIFFERENCE }
    }
}

/// Longest [`View::patience`].
pub(super) const MOST_PATIENCE: u32 = 3;

/// Who has a job, as one process sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Hold {
    /// Not looked at, or not lately: counts for nobody.
    #[default]
    Unknown,
    /// For whoever takes it.
    Free,
    /// The process itself, which runs it or is taking it.
    Mine,
    /// The process itself, which ends it so that this one can take it.
    Given(String),
    /// Another process.
    Of(String),
}

/// The jobs of a fleet as one process sees them.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    /// The process.
    pub(super) me: &'a str,
    /// Who has which job.
    pub(super) jobs: &'a BTreeMap<String, Hold>,
    /// The rule's number.
    pub(super) spread: Spread,
}

impl<'a> View<'a> {
    /// Jobs of this process that it has not begun to give away.
    pub(super) fn mine(&self) -> usize {
        self.jobs.values().filter(|hold| **hold == Hold::Mine).count()
    }

    /// Jobs of another process, with those that it is being given.
    pub(super) fn load(&self, process: &str) -> usize {
        let has = |hold: &&Hold| matches!(hold, Hold::Of(other) | Hold::Given(other) if other == process);
        self.jobs.values().filter(has).count()
    }

    /// The job that this process should ask for, of those that it `may` have: one of the process that has most. `None` where
    /// all is well, and while there are jobs to be had without asking.
    pub(super) fn wish(&self, may: impl Fn(&str) -> bool) -> Option<&'a str> {
        if self.jobs.values().any(|hold| *hold == Hold::Free) {
            return None;
        }
        let wanted = self.jobs.keys().map(String::as_str).filter(|job| self.wants(job) && may(job));
        // Processes that wish at the same time should not all wish for the same job.
        wanted.max_by_key(|job| (self.jobs.get(*job).map(|hold| self.load_of(hold)), rank(self.me, job)))
    }

    /// Whether this process has so few jobs that it should have this one.
    pub(super) fn wants(&self, job: &str) -> bool {
        let has = self.jobs.get(job).filter(|hold| matches!(hold, Hold::Of(_)));
        has.is_some_and(|hold| self.load_of(hold) >= self.mine() + self.spread.difference)
    }

    fn load_of(&self, hold: &Hold) -> usize {
        if let Hold::Of(process) = hold { self.load(process) } else { 0 }
    }

    /// Whether this process, which runs `job`, should let `process` have it.
    pub(super) fn gives(&self, job: &str, process: &str) -> bool {
        self.jobs.get(job) == Some(&Hold::Mine) && self.mine() >= self.load(process) + self.spread.difference
    }

    /// How many steps this process waits before it takes a job that is free, so that those with fewer jobs come first: none
    /// without a job (others do not see such a process), else one, and one more for each job that it has more than the least
    /// loaded that it sees. Bounded, so that a job does not wait for a process which is not there.
    pub(super) fn patience(&self) -> u32 {
        let mine = self.mine();
        if mine == 0 {
            return 0;
        }
        let others = self.jobs.values().filter(|hold| matches!(hold, Hold::Of(_)));
        let least = others.map(|hold| self.load_of(hold)).min().unwrap_or(mine);
        let more = u32::try_from(mine.saturating_sub(least)).unwrap_or(MOST_PATIENCE);
        more.saturating_add(1).min(MOST_PATIENCE)
    }
}

/// A number for a process and a job: the same each time, and in another order for each process.
pub(super) fn rank(process: &str, job: &str) -> u64 {
    let bytes = process.bytes().chain([0]).chain(job.bytes());
    bytes.fold(0, |state, byte| splitmix64(state ^ u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fleet whose processes all see the truth, and act one after the other.
    struct Fleet {
        names: Vec<String>,
        jobs: BTreeMap<String, usize>,
        spread: Spread,
    }

    impl Fleet {
        fn new(loads: &[usize], difference: usize) -> Self {
            let names = (0..loads.len()).map(|n| format!("process-{n}")).collect();
            let owners = loads.iter().enumerate().flat_map(|(owner, load)| std::iter::repeat_n(owner, *load));
            let jobs = owners.enumerate().map(|(n, owner)| (format!("job-{n}"), owner)).collect();
            Self { names, jobs, spread: Spread { difference } }
        }

        fn holds(&self, process: usize) -> BTreeMap<String, Hold> {
            let hold = |owner: usize| if owner == process { Hold::Mine } else { Hold::Of(self.names[owner].clone()) };
            self.jobs.iter().map(|(job, owner)| (job.clone(), hold(*owner))).collect()
        }

        fn loads(&self) -> Vec<usize> {
            (0..self.names.len()).map(|n| self.jobs.values().filter(|owner| **owner == n).count()).collect()
        }

        fn differ(&self) -> usize {
            let loads = self.loads();
            loads.iter().max().expect("processes") - loads.iter().min().expect("processes")
        }

        /// All wish at the same time, then each giver decides one after the other. Answers what has moved.
        fn round(&mut self) -> usize {
            let wishes: Vec<(usize, String)> = (0..self.names.len())
                .filter_map(|process| {
                    let holds = self.holds(process);
                    let view = View { me: &self.names[process], jobs: &holds, spread: self.spread };
                    view.wish(|_| true).map(|job| (process, job.to_owned()))
                })
                .collect();
            let mut moved = 0;
            for (process, job) in wishes {
                let giver = self.jobs[&job];
                let holds = self.holds(giver);
                let view = View { me: &self.names[giver], jobs: &holds, spread: self.spread };
                if giver != process && view.gives(&job, &self.names[process]) {
                    self.jobs.insert(job, process);
                    moved += 1;
                }
            }
            moved
        }
    }

    fn all_loads(processes: usize, most: usize) -> Vec<Vec<usize>> {
        (0..processes).fold(vec![Vec::new()], |lists, _| {
            let longer = |list: &Vec<usize>| {
                let list = list.clone();
                (0..=most).map(move |load| list.iter().copied().chain([load]).collect()).collect::<Vec<_>>()
            };
            lists.iter().flat_map(longer).collect()
        })
    }

    #[test]
    fn loads_come_to_differ_by_one_at_most_and_stay() {
        for loads in (1..=4).flat_map(|processes| all_loads(processes, 5)) {
            let mut fleet = Fleet::new(&loads, DIFFERENCE);
            let squares = |fleet: &Fleet| fleet.loads().iter().map(|load| load * load).sum::<usize>();
            let mut before = squares(&fleet);
            loop {
                let moved = fleet.round();
                assert_eq!(
                    moved == 0,
                    fleet.differ() <= 1 && squares(&fleet) == before,
                    "{loads:?}: {:?}",
                    fleet.loads()
                );
                if moved == 0 {
                    break;
                }
                assert!(squares(&fleet) + 2 * moved <= before, "{loads:?}: {:?}", fleet.loads());
                before = squares(&fleet);
            }
            assert_eq!(fleet.loads().iter().sum::<usize>(), loads.iter().sum::<usize>());
        }
    }

    #[test]
    fn a_difference_of_one_would_not_rest() {
        let mut fleet = Fleet::new(&[2, 1], 1);
        assert!((0..1_000).all(|_| fleet.round() > 0));
    }

    #[test]
    fn no_more_moves_than_needed() {
        let mut fleet = Fleet::new(&[9, 0, 0], DIFFERENCE);
        let moves: usize = (0..20).map(|_| fleet.round()).sum();
        assert_eq!((moves, fleet.loads()), (6, vec![3, 3, 3]));
    }

    fn view<'a>(me: &'a str, jobs: &'a BTreeMap<String, Hold>) -> View<'a> {
        View { me, jobs, spread: Spread::default() }
    }

    fn holds(text: &str) -> BTreeMap<String, Hold> {
        let hold = |letter: char| match letter {
            '?' => Hold::Unknown,
            '-' => Hold::Free,
            'm' => Hold::Mine,
            letter if letter.is_uppercase() => Hold::Given(letter.to_lowercase().collect()),
            letter => Hold::Of(letter.to_string()),
        };
        text.chars().enumerate().map(|(n, letter)| (n.to_string(), hold(letter))).collect()
    }

    #[test]
    fn a_wish_is_for_a_job_of_the_most_loaded() {
        let job =
            |text: &str| view("m", &holds(text)).wish(|_| true).map(|job| job.parse::<usize>().expect("a number"));
        assert!(job("aaabbmd").is_some_and(|job| job < 3));
        assert_eq!(job("aabbm"), None);
        assert_eq!(job("aab"), job("aab"));
        assert!(job("aab").is_some_and(|job| job < 2));
        assert_eq!(job("aaa-"), None, "there is one to be had");
        assert_eq!(job("?a"), None);
        // Of the rest, where the first may not be had.
        let holds = holds("aaabb");
        assert!(view("m", &holds).wish(|job| job > "2").is_some_and(|job| job > "2"));
        // Another process wishes for another one, mostly.
        let several = (0..20).map(|n| view(&format!("m{n}"), &holds).wish(|_| true).map(str::to_owned));
        assert!(several.collect::<std::collections::BTreeSet<_>>().len() == 3);
    }

    #[test]
    fn a_giver_counts_what_it_gives() {
        let gives = |text: &str, job: &str, to: &str| view("m", &holds(text)).gives(job, to);
        assert!(gives("mm", "0", "b") && gives("mmmb", "0", "b"));
        assert!(!gives("m", "0", "b") && !gives("mmb", "0", "b"));
        // Two of three are on their way already.
        assert!(!gives("mmBC", "0", "b") && !gives("mBC", "0", "d") && gives("mmBC", "0", "d"));
        assert!(!gives("mmB", "2", "d"), "it has been given");
    }

    #[test]
    fn who_has_more_waits_longer() {
        let steps = |text: &str| view("m", &holds(text)).patience();
        assert_eq!(["", "---", "aab"].map(steps), [0, 0, 0]);
        assert_eq!(["m-", "ma", "maa", "mmmmm"].map(steps), [1, 1, 1, 1]);
        assert_eq!(["mma", "mmmaab", "mmmmmma", "mmA-b"].map(steps), [2, 3, 3, 2]);
    }
}
