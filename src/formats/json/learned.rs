//! The keys of one object of the schema: those wanted, those met, and which one followed which.
//!
//! Producers write the same keys in the same order. So after each key the walker guesses the one that
//! followed it before, and compares the 32 bytes at hand with `"key":` at once; only a miss scans the key
//! and looks it up. A guess decides nothing by itself: it is either there in the record, byte by byte, or not.
//!
//! Invariant: a pattern is well-formed JSON up to its colon and is UTF-8, so what matches it needs no
//! further check. Learned keys are bounded ([`MAX_KEYS`]), so a hostile producer fills a small table and
//! no more.

use super::simd::{STEP, Simd};
use super::strings::block;

/// Keys remembered for one object; more are looked at each time, and never guessed.
const MAX_KEYS: usize = 256;
/// Longest name remembered, so that what is remembered has a bound in bytes too.
const MAX_NAME: usize = 256;
/// Length of a pattern that nothing matches.
const NEVER: u8 = STEP as u8 + 1;
/// Times that the second guess must hit before it becomes the first.
const PROMOTE_AFTER: u8 = 8;

/// What a key's value is for: the column of that number, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target(u32);

impl Target {
    pub(super) const SKIP: Target = Target(u32::MAX);

    pub(super) fn column(index: usize) -> Self {
        Self(u32::try_from(index).expect("a schema has fewer than 2^32 columns"))
    }

    #[inline(always)]
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// One cache line.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Key {
    /// `"key":`, and zeros behind it.
    pattern: [u8; STEP],
    /// Bytes of the pattern; [`NEVER`] if it cannot be guessed.
    length: u8,
    second_hits: u8,
    /// The keys that followed it, the likelier first; 0 is none.
    next: [u32; 2],
    target: Target,
    /// Number of the object that is this key's value, if it is an unwanted one whose keys are learned; else 0.
    inside: u32,
}

impl Key {
    fn new(name: &[u8], target: Target) -> Self {
        let mut key = Self {
            pattern: [0; STEP],
            length: NEVER,
            second_hits: 0,
            next: [0; 2],
            target,
            inside: 0,
        };
        // A name with one of these is written with escapes, if at all.
        let plain = !name.iter().any(|b| *b == b'"' || *b == b'\\' || *b < 0x20);
        let length = name.len() + 3;
        if plain && length <= STEP && std::str::from_utf8(name).is_ok() {
            key.pattern[0] = b'"';
            key.pattern[1..=name.len()].copy_from_slice(name);
            key.pattern[name.len() + 1] = b'"';
            key.pattern[name.len() + 2] = b':';
            key.length = length as u8;
        }
        key
    }

    /// The object below this key whose keys are learned though unwanted; 0 if there is none.
    #[inline(always)]
    pub(super) fn inside(&self) -> usize {
        self.inside as usize
    }

    /// From now on object `object` is the one below this key.
    pub(super) fn learn_inside(&mut self, object: usize) {
        self.inside = object as u32;
    }

    fn can_be_guessed(&self) -> bool {
        self.length != NEVER
    }
}

/// A key that was found: its number (the place to guess the next one from), what it is for, its length.
pub(super) type Found = (usize, Target, usize);

/// The key at `at` if it is one of the two that are likely after key `previous`.
#[inline(always)]
pub(super) fn guess<S: Simd>(keys: &mut [Key], simd: S, text: &[u8], at: usize, previous: usize) -> Option<Found> {
    let here = block(text, at)?;
    let [first, second] = keys[previous].next.map(|number| number as usize);
    let key = &keys[first];
    if simd.same_start(here, &key.pattern, usize::from(key.length)) {
        return Some((first, key.target, usize::from(key.length)));
    }
    let key = &keys[second];
    if simd.same_start(here, &key.pattern, usize::from(key.length)) {
        let found = (second, key.target, usize::from(key.length));
        let previous = &mut keys[previous];
        previous.second_hits += 1;
        if previous.second_hits >= PROMOTE_AFTER {
            previous.second_hits = 0;
            previous.next.swap(0, 1);
        }
        return Some(found);
    }
    None
}

#[derive(Clone, Debug)]
pub(super) struct ObjectKeys {
    /// Number 0 stands for the beginning of the object.
    keys: Vec<Key>,
    names: Vec<Box<[u8]>>,
    /// Open addressing from a name's hash to its number, 0 if free; twice the size of what it may hold.
    buckets: Vec<u32>,
    limit: usize,
    /// Columns of the object, in the order of the schema.
    pub columns: Vec<usize>,
    /// Those of them that must have a value in each row.
    pub required: Vec<usize>,
}

impl ObjectKeys {
    /// `wanted`: each field's name and column.
    pub(super) fn new(wanted: &[(&str, usize)], required: Vec<usize>) -> Self {
        let limit = MAX_KEYS.max(wanted.len() + MAX_KEYS / 2);
        let mut object = Self {
            keys: vec![Key::new(&[0], Target::SKIP)],
            names: vec![Box::default()],
            buckets: vec![0; (2 * limit).next_power_of_two()],
            limit,
            columns: wanted.iter().map(|(_, column)| *column).collect(),
            required,
        };
        for (name, column) in wanted {
            object.insert(name.as_bytes(), Target::column(*column));
        }
        object
    }

    /// Lends the keys to a walk over the object, which holds them closer than from here.
    #[inline(always)]
    pub(super) fn lend(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.keys)
    }

    #[inline(always)]
    pub(super) fn give_back(&mut self, keys: Vec<Key>) {
        self.keys = keys;
    }

    /// Looks `name` up after a wrong guess; remembers it, and that it followed `previous`.
    ///
    /// `raw`: the name stands in the record as it is, without escapes.
    pub(super) fn look_up(&mut self, name: &[u8], raw: bool, previous: usize) -> (usize, Target) {
        let number = match self.find(name) {
            Some(number) => number,
            None if raw && self.keys.len() < self.limit && name.len() <= MAX_NAME && std::str::from_utf8(name).is_ok() => self.insert(name, Target::SKIP),
            None => return (0, Target::SKIP),
        };
        if raw && self.keys[number].can_be_guessed() {
            let next = &mut self.keys[previous].next;
            let slot = usize::from(next[0] != 0);
            next[slot] = number as u32;
        }
        (number, self.keys[number].target)
    }

    /// The column wanted under `name`.
    pub(super) fn wanted(&self, name: &[u8]) -> Option<usize> {
        let target = self.keys[self.find(name)?].target;
        (target != Target::SKIP).then(|| target.index())
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        let mut bucket = self.bucket(name);
        loop {
            match self.buckets[bucket] as usize {
                0 => return None,
                number if *self.names[number] == *name => return Some(number),
                _ => bucket = (bucket + 1) % self.buckets.len(),
            }
        }
    }

    fn insert(&mut self, name: &[u8], target: Target) -> usize {
        let number = self.keys.len();
        self.keys.push(Key::new(name, target));
        self.names.push(name.into());
        let mut bucket = self.bucket(name);
        while self.buckets[bucket] != 0 {
            bucket = (bucket + 1) % self.buckets.len();
        }
        self.buckets[bucket] = number as u32;
        number
    }

    /// Mixes length, first and last eight bytes: keys that agree in all of them are rare, and merely slow.
    fn bucket(&self, name: &[u8]) -> usize {
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |word, b| word << 8 | u64::from(*b));
        let first = word(&name[..name.len().min(8)]);
        let last = word(&name[name.len().saturating_sub(8)..]);
        let mixed = (first ^ last.rotate_left(29) ^ name.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> 32) as usize % self.buckets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::Portable;
    use super::*;

    fn padded(text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.extend_from_slice(&[0; 64]);
        bytes
    }

    #[test]
    fn guesses_what_followed_before() {
        let mut keys = ObjectKeys::new(&[("b", 7)], vec![]);
        let text = padded(r#""b":1"#);
        assert_eq!(guess(&mut keys.keys, Portable, &text, 0, 0), None);
        let (a, target) = keys.look_up(b"a", true, 0);
        assert_eq!(target, Target::SKIP);
        let (b, target) = keys.look_up(b"b", true, a);
        assert_eq!(target, Target::column(7));
        assert_eq!(guess(&mut keys.keys, Portable, &text, 0, a), Some((b, target, 4)));
        // A second follower is guessed too, and comes first in the end.
        let (c, _) = keys.look_up(b"c", true, a);
        for _ in 0..20 {
            assert!(guess(&mut keys.keys, Portable, &padded(r#""c":1"#), 0, a).is_some_and(|found| found.0 == c));
            assert!(guess(&mut keys.keys, Portable, &text, 0, a).is_some_and(|found| found.0 == b));
        }
        for near in [r#""b" :1"#, r#""bb":1"#, r#""b""#, r#"'b':1"#, ""] {
            assert_eq!(guess(&mut keys.keys, Portable, &padded(near), 0, a), None, "{near}");
        }
    }

    #[test]
    fn names_that_need_escapes_or_are_long_are_never_guessed() {
        let long = "k".repeat(30);
        let mut keys = ObjectKeys::new(&[("a\"b", 0), (&long, 1), ("\u{1}", 2)], vec![]);
        for (column, name) in ["a\"b", &long, "\u{1}"].into_iter().enumerate() {
            assert_eq!(keys.look_up(name.as_bytes(), true, 0).1, Target::column(column));
            assert_eq!(keys.keys[0].next, [0, 0]);
        }
        assert_eq!(guess(&mut keys.keys, Portable, &[0; 64], 0, 0), None);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut keys = ObjectKeys::new(&[("wanted", 3)], vec![]);
        for i in 0..10_000 {
            keys.look_up(format!("key{i}").as_bytes(), true, 0);
        }
        assert_eq!(keys.keys.len(), MAX_KEYS);
        assert_eq!(keys.wanted(b"wanted"), Some(3));
        assert_eq!(keys.wanted(b"key1"), None);
        let names: Vec<String> = (0..2_000).map(|i| format!("field_{i}")).collect();
        let wanted: Vec<(&str, usize)> = names.iter().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
        let keys = ObjectKeys::new(&wanted, vec![]);
        assert!(wanted.iter().all(|(name, column)| keys.wanted(name.as_bytes()) == Some(*column)));
    }
}
