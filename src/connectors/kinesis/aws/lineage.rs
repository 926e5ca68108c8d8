//! Which shards of a stream are read: parents, children, and those that must not be read.
//!
//! ```text
//!  started here        split            merge
//!  A ────────────────► C ─────┐
//!                      D ───► E ──►      read: A, then C and D, then E
//!  Z ──► A             ▲                 never: Z, whose records are from before the start
//! ```
//!
//! ListShards names every shard that still holds records, also those whose records are from before the start. A shard that
//! was not known is *old* if it is above a known one and below none; all others are new. The known shards cover the whole hash
//! range at the time of the start, so whatever is not above them is below, whether or not its parents are still listed:
//! that also finds a live grandchild when a known shard and all its children have aged out. (Above *and* below is the
//! other parent of a merge, which became known through the first one.)
//!
//! What it is not: it makes no calls and knows no positions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A shard's id.
pub(super) type ShardId = Arc<str>;

/// Listings without a shard after which it is forgotten: one that was found through its parent may not be listed yet.
const MISSED_LISTINGS: u32 = 3;

#[derive(Debug, Clone)]
struct Known {
    parents: Vec<ShardId>,
    missed: u32,
}

/// The shards of one stream that are read.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    known: BTreeMap<ShardId, Known>,
    /// Shards of an earlier run, some of which may be gone.
    earlier: BTreeSet<ShardId>,
}

/// A shard as the service names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) id: ShardId,
    pub(super) parents: Vec<ShardId>,
}

impl Lineage {
    /// What a run starts with.
    pub(super) fn start(shards: Vec<Listed>) -> Self {
        let mut this = Self::default();
        for shard in shards {
            this.insert(shard);
        }
        this
    }

    /// What a later run goes on with: `earlier` are the shards that the one before knew. Answers which of them are gone.
    pub(super) fn go_on(listed: Vec<Listed>, earlier: BTreeSet<ShardId>) -> (Self, Vec<ShardId>) {
        let names: BTreeSet<&ShardId> = listed.iter().map(|s| &s.id).collect();
        let gone = earlier.iter().filter(|id| !names.contains(id)).cloned().collect();
        let mut this = Self { known: BTreeMap::new(), earlier };
        this.listed(listed);
        (this, gone)
    }

    /// Takes a whole listing. Answers whether there are new shards.
    pub(super) fn listed(&mut self, listed: Vec<Listed>) -> bool {
        let old = self.old(&listed);
        let names: BTreeSet<ShardId> = listed.iter().map(|s| Arc::clone(&s.id)).collect();
        let before = self.known.len();
        for shard in listed {
            if let Some(known) = self.known.get_mut(&shard.id) {
                known.missed = 0;
            } else if self.earlier.contains(&shard.id) || !old.contains(&shard.id) {
                self.insert(shard);
            }
        }
        let grown = self.known.len() > before;
        self.known.retain(|id, known| {
            known.missed += u32::from(!names.contains(id));
            known.missed < MISSED_LISTINGS
        });
        grown
    }

    /// Takes what the last answer of a shard said of its children. Answers whether any is new.
    pub(super) fn children(&mut self, children: Vec<Listed>) -> bool {
        let before = self.known.len();
        for child in children {
            if !self.known.contains_key(&child.id) {
                self.insert(child);
            }
        }
        self.known.len() > before
    }

    /// Whether children of this shard are known, and all their parents.
    pub(super) fn knows_family(&self, shard: &str) -> bool {
        let children = || self.known.values().filter(|k| k.parents.iter().any(|p| &**p == shard));
        children().next().is_some() && children().flat_map(|k| &k.parents).all(|p| self.known.contains_key(p))
    }

    /// The shards to read, parents before children: ids grow with time.
    pub(super) fn shards(&self) -> Vec<Listed> {
        let shard = |(id, known): (&ShardId, &Known)| Listed { id: Arc::clone(id), parents: known.parents.clone() };
        self.known.iter().map(shard).collect()
    }

    fn insert(&mut self, shard: Listed) {
        self.known.insert(shard.id, Known { parents: shard.parents, missed: 0 });
    }

    /// Shards above a known one and below none, as far as the listing goes.
    fn old(&self, listed: &[Listed]) -> BTreeSet<ShardId> {
        let parents: BTreeMap<&str, &[ShardId]> = listed.iter().map(|s| (&*s.id, s.parents.as_slice())).collect();
        let above = |from: Vec<ShardId>| {
            let mut above: BTreeSet<ShardId> = BTreeSet::new();
            let mut next = from;
            while let Some(id) = next.pop() {
                if above.insert(Arc::clone(&id)) {
                    next.extend(parents.get(&*id).copied().unwrap_or_default().iter().cloned());
                }
            }
            above
        };
        let known_parents = self.known.values().flat_map(|k| k.parents.iter());
        let earlier_parents = self.earlier.iter().flat_map(|id| parents.get(&**id).copied().unwrap_or_default());
        let mut old = above(known_parents.chain(earlier_parents).cloned().collect());
        old.retain(|id| {
            let own = parents.get(&**id).copied().unwrap_or_default().to_vec();
            !above(own).iter().any(|a| self.known.contains_key(a) || self.earlier.contains(a))
        });
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(text: &str) -> Listed {
        let mut parts = text.split('<').map(Arc::from);
        Listed { id: parts.next().unwrap(), parents: parts.collect() }
    }

    fn shards(texts: &[&str]) -> Vec<Listed> {
        texts.iter().map(|t| shard(t)).collect()
    }

    fn ids(lineage: &Lineage) -> Vec<String> {
        lineage.shards().iter().map(|s| s.id.to_string()).collect()
    }

    #[test]
    fn what_is_above_the_start_is_not_read_and_what_is_below_is() {
        let mut lineage = Lineage::start(shards(&["2<1"]));
        assert!(!lineage.listed(shards(&["0", "1<0", "2<1"])));
        assert!(lineage.listed(shards(&["0", "1<0", "2<1", "3<2", "4<2", "5<3<4"])));
        assert_eq!(ids(&lineage), ["2", "3", "4", "5"]);
    }

    #[test]
    fn a_live_grandchild_of_shards_that_are_gone_is_found() {
        let earlier = BTreeSet::from([Arc::from("0")]);
        let (lineage, gone) = Lineage::go_on(shards(&["3<1", "4<1"]), earlier);
        assert_eq!(gone, [Arc::from("0")]);
        assert_eq!(ids(&lineage), ["3", "4"]);
    }

    #[test]
    fn a_later_run_does_not_read_what_was_before_the_first() {
        let (lineage, gone) = Lineage::go_on(shards(&["0", "1<0", "2<0", "3<1"]), BTreeSet::from([Arc::from("1")]));
        assert!(gone.is_empty());
        // 2 is a sibling of 1: an earlier run that began with 1 alone does not happen, since starts cover all keys.
        assert_eq!(ids(&lineage), ["1", "2", "3"]);
    }

    /// Found by a merge right after a split: 4 is named by the last answer of 1 before its other parent, 3, was ever listed.
    #[test]
    fn the_other_parent_of_a_merge_is_read() {
        let mut lineage = Lineage::start(shards(&["0", "1"]));
        assert!(!lineage.knows_family("1"));
        lineage.children(shards(&["4<1<3"]));
        assert!(!lineage.knows_family("1"));
        lineage.listed(shards(&["0", "1", "2<0", "3<0", "4<1<3"]));
        assert!(lineage.knows_family("1"));
        assert_eq!(ids(&lineage), ["0", "1", "2", "3", "4"]);
    }

    #[test]
    fn a_child_may_be_known_before_it_is_listed_and_old_shards_are_forgotten() {
        let mut lineage = Lineage::start(shards(&["0"]));
        assert!(lineage.children(shards(&["1<0", "2<0"])));
        assert!(lineage.knows_family("0"));
        for _ in 0..2 {
            lineage.listed(shards(&["0"]));
        }
        assert_eq!(ids(&lineage), ["0", "1", "2"]);
        for _ in 0..3 {
            lineage.listed(shards(&["1<0", "2<0"]));
        }
        assert_eq!(ids(&lineage), ["1", "2"]);
    }
}
