//! The walk over one record: objects of the schema key by key, wanted values into columns, the rest checked.
//!
//! This is the fast way, and an optimistic one. It writes values as it meets them; a syntax fault ends the
//! record, but a repeated key or a value of a wrong type only ends *this* walk ([`Stop::Repeat`],
//! [`Stop::Value`]): [`careful`](super::careful) then reads the record again, since a later key of the same
//! name may replace what was wrong. Whoever calls takes the row's values back in every such case.
//!
//! Reading past the record: `text` is the record and at least [`PADDING`] bytes behind it, whatever they are,
//! so blocks of 32 bytes can be read without asking where the record ends. A walk that takes some of them
//! for the record ends behind the record's end, and is refused there.

use super::columns::Column;
use super::learned::{Key, Target, guess};
use super::numbers;
use super::plan::Machine;
use super::reject::RejectReason;
use super::simd::{Simd, Task};
use super::strings;

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
        struct $task<'w, 'a, S> { walker: &'w mut $crate::formats::json::walk::Walker<'a, S>, $($argument: $type),* }
        impl<S: Simd> Task<S> for $task<'_, '_, S> {
            type Output = Result<$output, Stop>;
            #[inline(always)]
            fn run(self, _: S) -> Self::Output {
                self.walker.$body($(self.$argument),*)
            }
        }
        impl<'a, S: Simd> $crate::formats::json::walk::Walker<'a, S> {
            $(#[$doc])*
            pub(super) fn $method(&mut self, $($argument: $type),*) -> Result<$output, Stop> {
                self.simd.run($task { walker: self, $($argument),* })
            }
        }
    };
}
pub(super) use task;

task!(
    /// Reads the object behind the brace before `at` into row `row`; the place after it.
    ObjectTask, object = object_body(object: usize, at: usize, row: usize, depth: usize) -> usize
);
task!(
    /// Reads the key at `at`, which was not guessed: its number, what it is for, and its value's place.
    KeyTask, find_key = find_key_body(object: usize, at: usize, previous: usize) -> (usize, Target, usize)
);
impl<'a, S: Simd> Walker<'a, S> {
    #[inline(always)]
    pub(super) fn new(simd: S, text: &'a [u8], end: usize, base: Option<usize>, machine: &'a mut Machine, max_depth: usize) -> Self {
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

    /// Reads the whole record into row `row`.
    #[inline(always)]
    pub(super) fn record(&mut self, row: usize) -> Result<(), Stop> {
        let start = skip_space(self.text, 0);
        if byte(self.text, start) != b'{' {
            return Err(Stop::NotAnObject);
        }
        let after = self.object(0, start + 1, row, 0)?;
        self.finish(after)
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

    #[inline(always)]
    fn object_body(&mut self, object: usize, at: usize, row: usize, depth: usize) -> Result<usize, Stop> {
        let text = self.text;
        let depth = depth + 1;
        if depth >= self.max_depth {
            return Err(self.too_deep(at));
        }
        let at = skip_space(text, at);
        let after = if byte(text, at) == b'}' {
            at + 1
        } else {
            // An object of the schema is never walked inside of itself, so its keys may be away meanwhile.
            let mut keys = self.machine.objects[object].lend();
            let after = self.members(&mut keys, object, at, row, depth);
            self.machine.objects[object].give_back(keys);
            after?
        };
        self.check_required(object, row)?;
        Ok(after)
    }

    /// Reads the object's members from the first key on, which is at `at`; the place after the brace.
    #[inline(always)]
    fn members(&mut self, keys: &mut Vec<Key>, object: usize, at: usize, row: usize, depth: usize) -> Result<usize, Stop> {
        let text = self.text;
        let mut at = at;
        let mut previous = 0;
        loop {
            let target;
            match guess(keys, self.simd, text, at, previous) {
                Some((number, wanted, length)) => {
                    (previous, target) = (number, wanted);
                    at += length;
                }
                None => {
                    self.machine.objects[object].give_back(std::mem::take(keys));
                    let found = self.find_key(object, at, previous);
                    *keys = self.machine.objects[object].lend();
                    (previous, target, at) = found?;
                }
            }
            let mut first = byte(text, at);
            if first <= b' ' {
                at = skip_space(text, at);
                first = byte(text, at);
            }
            at = if first == b'"' {
                let found = self.string(at)?;
                if target == Target::SKIP {
                    found.end + 1
                } else {
                    self.text_value(target.index(), at, found.end, found.escaped, row, depth)?
                }
            } else if target != Target::SKIP {
                self.value_body(target.index(), at, row, depth)?
            } else if first == b'{' {
                match keys[previous].inside() {
                    0 => {
                        if let Some(inside) = self.machine.learn_object(previous) {
                            keys[previous].learn_inside(inside);
                        }
                        self.skip_container(at, depth)?
                    }
                    // Its keys are learned as if it were wanted, which is faster.
                    inside => self.object(inside, at + 1, row, depth)?,
                }
            } else {
                self.skip_value(at, depth)?
            };
            let mut after = byte(text, at);
            if after <= b' ' {
                at = skip_space(text, at);
                after = byte(text, at);
            }
            at += 1;
            match after {
                b',' => {
                    if byte(text, at) <= b' ' {
                        at = skip_space(text, at);
                    }
                }
                b'}' => return Ok(at),
                _ => return Err(self.syntax(at - 1)),
            }
        }
    }

    #[inline(always)]
    fn find_key_body(&mut self, object: usize, at: usize, previous: usize) -> Result<(usize, Target, usize), Stop> {
        let text = self.text;
        let (start, end, escaped, value) = self.key(at)?;
        let raw = text.get(start..end).unwrap_or_default();
        let keys = &mut self.machine.objects[object];
        let (number, target) = if escaped {
            let mut name = Vec::new();
            strings::unescape(raw, &mut name);
            keys.look_up(&name, false, previous)
        } else {
            keys.look_up(raw, true, previous)
        };
        Ok((number, target, value))
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
    pub(super) fn string(&mut self, at: usize) -> Result<strings::Scanned, Stop> {
        strings::scan(self.simd, self.text, at + 1, &mut self.high).map_err(|fault| self.syntax(fault))
    }

    #[inline(always)]
    pub(super) fn check_required(&mut self, object: usize, row: usize) -> Result<(), Stop> {
        let required = &self.machine.objects[object].required;
        for column in required {
            if self.machine.columns[*column].rows() != row + 1 {
                let column = *column;
                return Err(self.refuse(Stop::Value(RejectReason::MissingField), column, 0, 0));
            }
        }
        Ok(())
    }

    /// The string from the quote at `at` to that at `end` into `column`: texts and timestamps are taken here,
    /// the rest by [`Self::any_value`].
    #[inline(always)]
    fn text_value(&mut self, column: usize, at: usize, end: usize, escaped: bool, row: usize, depth: usize) -> Result<usize, Stop> {
        let text = self.text;
        let start = at + 1;
        match &mut self.machine.columns[column] {
            Column::Text(values) if !escaped => {
                let length = end - start;
                let view = if strings::is_inline(length) {
                    strings::inline_view(text, start, length)
                } else if let Some(base) = self.base {
                    values.long = true;
                    strings::long_view(text, start, length, 0, (base + start) as u32)
                } else {
                    return self.any_value(column, at, row, depth);
                };
                values.views.push(row, view)?;
            }
            Column::Timestamp(values) if !escaped => {
                let Some(Ok(value)) = text.get(start..end).map(|content| values.parser.parse(content)) else {
                    return self.any_value(column, at, row, depth);
                };
                values.values.push(row, value)?;
                if column == self.stop_at {
                    self.fault.from = end + 1;
                    return Err(Stop::Found);
                }
            }
            _ => return self.any_value(column, at, row, depth),
        }
        Ok(end + 1)
    }

    /// A value that is no string into `column`: numbers and objects are taken here, the rest by [`Self::any_value`].
    #[inline(always)]
    fn value_body(&mut self, column: usize, at: usize, row: usize, depth: usize) -> Result<usize, Stop> {
        let text = self.text;
        let first = byte(text, at);
        match &mut self.machine.columns[column] {
            Column::Decimal(values) => {
                if let Ok((after, number)) = numbers::scan(text, at)
                    && let Ok(value) = number.to_decimal(values.precision, values.scale)
                {
                    values.values.push(row, value)?;
                    return Ok(after);
                }
                self.any_value(column, at, row, depth)
            }
            Column::Int64(values) => {
                if let Ok((after, number)) = numbers::scan(text, at)
                    && let Ok(value) = number.to_i64()
                {
                    values.push(row, value)?;
                    return Ok(after);
                }
                self.any_value(column, at, row, depth)
            }
            Column::Float64(values) => {
                if let Ok((after, number)) = numbers::scan(text, at)
                    && let Ok(value) = number.to_f64()
                {
                    values.push(row, value)?;
                    return Ok(after);
                }
                self.any_value(column, at, row, depth)
            }
            Column::Struct(values) if first == b'{' && !self.careful => {
                let object = values.object;
                values.present.push(row, ())?;
                self.object(object, at + 1, row, depth)
            }
            _ => self.any_value(column, at, row, depth),
        }
    }
}
