//! The walker: one record under way, its faults, and the few steps that every reading of it takes.
//!
//! Reading past the record: `text` is the record and at least [`PADDING`] bytes behind it, whatever they are,
//! so blocks of 32 bytes can be read without asking where the record ends. A walk that takes some of them
//! for the record ends behind the record's end, and is refused there ([`Walker::finish`]).

use super::plan::Machine;
use super::reject::RejectReason;
use super::simd::Simd;
use super::strings::{self, Scanned};

/// Bytes that must be readable behind a record.
pub(super) const PADDING: usize = 64;

/// Why a walk ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Not JSON; the walker's `fault` tells where.
    Syntax,
    TooDeep,
    NotAnObject,
    /// A second value for one row of a column.
    Repeat,
    /// A value that its column refuses; the walker's `fault` tells which.
    Value(RejectReason),
    /// The column that was looked for has its value ([`Walker::stop_at`]).
    Found,
}

/// What a [`Stop`] is about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fault {
    pub from: usize,
    pub to: usize,
    pub column: Option<usize>,
}

/// `text[at]`, or 0, which JSON allows nowhere, beyond the end.
#[inline(always)]
pub(super) fn byte(text: &[u8], at: usize) -> u8 {
    text.get(at).copied().unwrap_or(0)
}

#[inline(always)]
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// The next place at or after `at` that holds no white space.
#[inline(always)]
pub(super) fn skip_space(text: &[u8], at: usize) -> usize {
    let mut at = at;
    while is_space(byte(text, at)) {
        at += 1;
    }
    at
}

pub(super) struct Walker<'a, S> {
    pub simd: S,
    /// The record from place 0 on, and the padding.
    pub text: &'a [u8],
    /// Where the record ends in `text`.
    pub end: usize,
    /// Where `text` begins in the chunk; `None` if it is a copy, so that views cannot point into it.
    pub base: Option<usize>,
    pub machine: &'a mut Machine,
    /// Nesting at which a record is refused.
    pub max_depth: usize,
    /// Nested objects are read by [`careful`](super::careful).
    pub careful: bool,
    /// The walk ends when this column has a value.
    pub stop_at: usize,
    /// Not zero if bytes above 0x7F were seen.
    pub high: u64,
    pub fault: Fault,
}

/// Compiles a method's body for the CPU, as a function of its own.
macro_rules! task {
    ($(#[$doc:meta])* $task:ident, $method:ident = $body:ident($($argument:ident: $type:ty),*) -> $output:ty) => {
        struct $task<'w, 'a, S> { walker: &'w mut $crate::formats::json::walker::Walker<'a, S>, $($argument: $type),* }
        impl<S: Simd> Task<S> for $task<'_, '_, S> {
            type Output = Result<$output, Stop>;
            #[inline(always)]
            fn run(self, _: S) -> Self::Output {
                self.walker.$body($(self.$argument),*)
            }
        }
        impl<'a, S: Simd> $crate::formats::json::walker::Walker<'a, S> {
            $(#[$doc])*
            pub(super) fn $method(&mut self, $($argument: $type),*) -> Result<$output, Stop> {
                self.simd.run($task { walker: self, $($argument),* })
            }
        }
    };
}
pub(super) use task;

impl<'a, S: Simd> Walker<'a, S> {
    #[inline(always)]
    pub(super) fn new(
        simd: S,
        text: &'a [u8],
        end: usize,
        base: Option<usize>,
        machine: &'a mut Machine,
        max_depth: usize,
    ) -> Self {
        Self {
            simd,
            text,
            end,
            base,
            machine,
            max_depth,
            careful: false,
            stop_at: usize::MAX,
            high: 0,
            fault: Fault::default(),
        }
    }

    /// Nothing but white space may stand between `at` and the record's end.
    #[inline(always)]
    pub(super) fn finish(&mut self, at: usize) -> Result<(), Stop> {
        let mut at = at;
        while at < self.end && is_space(byte(self.text, at)) {
            at += 1;
        }
        if at == self.end { Ok(()) } else { Err(self.syntax(at)) }
    }

    #[cold]
    pub(super) fn syntax(&mut self, at: usize) -> Stop {
        self.fault = Fault { from: at, to: at, column: None };
        Stop::Syntax
    }

    #[cold]
    pub(super) fn too_deep(&mut self, at: usize) -> Stop {
        self.fault = Fault { from: at, to: at, column: None };
        Stop::TooDeep
    }

    /// Notes which value was refused, and where it stands.
    #[cold]
    pub(super) fn refuse(&mut self, stop: Stop, column: usize, from: usize, to: usize) -> Stop {
        self.fault = Fault { from, to, column: Some(column) };
        stop
    }

    /// Reads the key at `at` and its colon: begin and end of its text, if it has escapes, its value's place.
    #[inline(always)]
    pub(super) fn key(&mut self, at: usize) -> Result<(usize, usize, bool, usize), Stop> {
        if byte(self.text, at) != b'"' {
            return Err(self.syntax(at));
        }
        let key = self.string(at)?;
        let colon = skip_space(self.text, key.end + 1);
        if byte(self.text, colon) != b':' {
            return Err(self.syntax(colon));
        }
        Ok((at + 1, key.end, key.escaped, skip_space(self.text, colon + 1)))
    }

    /// Scans the string whose opening quote is at `at`.
    #[inline(always)]
    pub(super) fn string(&mut self, at: usize) -> Result<Scanned, Stop> {
        strings::scan(self.simd, self.text, at + 1, &mut self.high).map_err(|fault| self.syntax(fault))
    }
}
