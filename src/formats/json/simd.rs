//! The only module with `unsafe`: 32-byte steps, and string arrays that were validated while they were read.
//!
//! A [`Simd`] value is a proof that the CPU has what its methods need, so they are safe to call: [`Avx2`]
//! can only be had from [`Avx2::detect`], [`Portable`] needs nothing. Both answer alike, which the unit
//! tests and the fuzz test check.
//!
//! Code that uses an AVX2 method is only fast where the compiler may inline it, that is inside a function
//! that has the target feature itself. [`Simd::run`] is such a function: hot code is written as a
//! [`Task`] whose `run` is `#[inline(always)]`, down to the last helper, and entered by it.
#![allow(unsafe_code)]

use std::sync::Arc;

use arrow::array::StringViewArray;
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};

/// Bytes looked at in one step.
pub(super) const STEP: usize = 32;

/// Hot code that is compiled once for each kind of CPU.
pub(super) trait Task<S: Simd> {
    type Output;
    /// Implementations must be `#[inline(always)]`.
    fn run(self, simd: S) -> Self::Output;
}

/// What the walk asks of the CPU.
pub(super) trait Simd: Copy {
    /// The first place at or after `start` that holds `"`, `\` or a byte below 0x20; `None` if the text ends
    /// less than a step behind the last place looked at.
    ///
    /// `high` gets bits set if a byte at or above 0x80 was met, in the string or up to 31 bytes behind.
    fn string_stop(self, text: &[u8], start: usize, high: &mut u64) -> Option<usize>;

    /// Whether the first `length` bytes of `block` and `pattern` are the same; never if it is over 32.
    fn same_start(self, block: &[u8; STEP], pattern: &[u8; STEP], length: usize) -> bool;

    /// Runs `task` in a function compiled for this CPU.
    fn run<T: Task<Self>>(self, task: T) -> T::Output;
}

/// 64-bit words instead of vectors; right on every CPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portable;

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = 0x8080_8080_8080_8080;

/// Ones over the first `i` bytes.
const STARTS: [[u8; STEP]; STEP + 1] = {
    let mut masks = [[0; STEP]; STEP + 1];
    let mut length = 1;
    while length <= STEP {
        masks[length] = masks[length - 1];
        masks[length][length - 1] = 0xFF;
        length += 1;
    }
    masks
};

/// Top bits set for bytes of `word` below `limit` (at most 0x80). The lowest of them is right; above it a
/// borrow may have set more.
#[inline(always)]
fn below(word: u64, limit: u64) -> u64 {
    word.wrapping_sub(ONES * limit) & !word & TOPS
}

#[inline(always)]
fn words(block: &[u8; STEP]) -> [u64; 4] {
    let (words, _) = block.as_chunks::<8>();
    [0, 1, 2, 3].map(|i| u64::from_le_bytes(words[i]))
}

impl Simd for Portable {
    #[inline(always)]
    fn string_stop(self, text: &[u8], start: usize, high: &mut u64) -> Option<usize> {
        let mut at = start;
        loop {
            let word = u64::from_le_bytes(*text.get(at..)?.first_chunk()?);
            *high |= word & TOPS;
            let quote = below(word ^ (ONES * b'"' as u64), 1);
            let backslash = below(word ^ (ONES * b'\\' as u64), 1);
            let stops = quote | backslash | below(word, 0x20);
            if stops != 0 {
                return Some(at + stops.trailing_zeros() as usize / 8);
            }
            at += 8;
        }
    }

    #[inline(always)]
    fn same_start(self, block: &[u8; STEP], pattern: &[u8; STEP], length: usize) -> bool {
        let Some(mask) = STARTS.get(length) else {
            return false;
        };
        let (block, pattern, mask) = (words(block), words(pattern), words(mask));
        (0..4).fold(0, |differ, i| differ | ((block[i] ^ pattern[i]) & mask[i])) == 0
    }

    #[inline(always)]
    fn run<T: Task<Self>>(self, task: T) -> T::Output {
        task.run(self)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8,
    };

    use super::{STEP, Simd, Task};

    /// AVX2 with the bit instructions that every CPU with it has; a value of it proves their presence.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Avx2(());

    impl Avx2 {
        pub(in super::super) fn detect() -> Option<Self> {
            let present = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt");
            present.then_some(Self(()))
        }
    }

    /// # Safety
    /// The CPU has AVX2.
    #[inline(always)]
    unsafe fn load(block: &[u8; STEP]) -> __m256i {
        // SAFETY: the reference covers the 32 bytes read; `loadu` asks for no alignment; AVX2 by contract.
        unsafe { _mm256_loadu_si256(block.as_ptr().cast()) }
    }

    impl Simd for Avx2 {
        #[inline(always)]
        fn string_stop(self, text: &[u8], start: usize, high: &mut u64) -> Option<usize> {
            let mut at = start;
            loop {
                let block = text.get(at..)?.first_chunk()?;
                // SAFETY: `self` proves AVX2.
                let stops = unsafe {
                    let bytes = load(block);
                    let quote = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(b'"' as i8));
                    let backslash = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(b'\\' as i8));
                    // Unsigned: a byte is its own minimum with 0x1F only if it is not above.
                    let control = _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(0x1F)), bytes);
                    *high |= u64::from(_mm256_movemask_epi8(bytes) as u32);
                    _mm256_movemask_epi8(_mm256_or_si256(_mm256_or_si256(quote, backslash), control)) as u32
                };
                if stops != 0 {
                    return Some(at + stops.trailing_zeros() as usize);
                }
                at += STEP;
            }
        }

        #[inline(always)]
        fn same_start(self, block: &[u8; STEP], pattern: &[u8; STEP], length: usize) -> bool {
            // SAFETY: `self` proves AVX2.
            let same = unsafe { _mm256_movemask_epi8(_mm256_cmpeq_epi8(load(block), load(pattern))) as u32 };
            same.trailing_ones() as usize >= length
        }

        #[inline(always)]
        fn run<T: Task<Self>>(self, task: T) -> T::Output {
            #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
            fn compiled_for_avx2<T: Task<Avx2>>(task: T, simd: Avx2) -> T::Output {
                task.run(simd)
            }
            // SAFETY: `self` proves every feature named on the function: `detect` asked for each.
            unsafe { compiled_for_avx2(task, self) }
        }
    }
}

/// A Utf8View array over text that the decoder has read, without reading it again.
///
/// Contract, kept by `columns.rs` and `walk.rs` and checked here in debug builds and by the fuzz test:
/// each view was made by `strings::view` from a span of a record (or of a side buffer) that lies in
/// `buffers`, and the record's bytes were found to be UTF-8 before its row was kept; spans begin and end
/// beside ASCII quotes or are ASCII, so each is UTF-8 by itself. Views of rows without a value are zero.
pub(super) fn validated_views(views: Vec<u128>, buffers: Vec<Buffer>, nulls: Option<NullBuffer>) -> StringViewArray {
    let views = ScalarBuffer::from(views);
    let buffers: Arc<[Buffer]> = buffers.into();
    if cfg!(debug_assertions) {
        return StringViewArray::try_new(views, buffers, nulls).expect("views were validated while they were read");
    }
    // SAFETY: the function's contract is what `new_unchecked` asks for: views within the buffers, valid
    // UTF-8, prefixes and inlined bytes as `strings::view` writes them; `nulls` is as long as `views`.
    unsafe { StringViewArray::new_unchecked(views, buffers, nulls) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts dense and sparse in what stops a scan; and each byte value at each place of a block.
    fn texts() -> Vec<Vec<u8>> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        let mut texts = Vec::new();
        for sparse in [2, 8, 60, 200] {
            for _ in 0..500 {
                texts.push((0..100).map(|_| match next() % sparse {
                    0 => [b'"', b'\\', 0x1F, 0, 0x20, 0x80, 0xFF, b'!', b'#', b'[', b']'][usize::from(next()) % 11],
                    1 => next(),
                    _ => b'a' + next() % 26,
                }).collect());
            }
        }
        for value in 0..=255 {
            for place in 0..40 {
                let mut text = vec![b'x'; 100];
                text[place] = value;
                text[place + 1] = b'"';
                texts.push(text);
            }
        }
        texts
    }

    fn check(simd: impl Simd) {
        for text in texts() {
            let stop = |b: &u8| *b == b'"' || *b == b'\\' || *b < 0x20;
            let mut high = 0;
            let found = simd.string_stop(&text, 0, &mut high);
            let wanted = text.iter().position(stop);
            // Near the end of the text the scan may give up, but it never goes wrong.
            assert!(found == wanted || (found.is_none() && wanted.is_none_or(|at| at >= 64)), "{text:?}");
            let before = &text[..found.unwrap_or(64)];
            assert!(high != 0 || before.is_ascii(), "{text:?}");

            let block: &[u8; STEP] = text.first_chunk().expect("100 bytes");
            for length in [0, 1, 7, 8, 31, 32] {
                for place in 0..STEP {
                    let mut other = *block;
                    other[place] ^= 1 << (place % 8);
                    assert_eq!(simd.same_start(block, &other, length), place >= length);
                }
                assert!(simd.same_start(block, block, length));
                assert!(!simd.same_start(block, block, STEP + 1));
            }
        }
    }

    #[test]
    fn portable_is_exact() {
        check(Portable);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn avx2_is_exact() {
        if let Some(simd) = Avx2::detect() {
            check(simd);
        }
    }
}
