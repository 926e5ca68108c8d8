//! The walk over one record: objects of the schema key by key, wanted values into columns, the rest checked.
//!
//! This is the fast way, and an optimistic one. It writes values as it meets them; a syntax fault ends the
//! record, but a repeated key or a value of a wrong type only ends *this* walk ([`Stop::Repeat`],
//! [`Stop::Value`]): [`careful`](super::careful) then reads the record again, since a later key of the same
//! name may replace what was wrong. Whoever calls takes the row's values back in every such case.

use super::columns::Column;
use super::learned::{Key, Target, guess};
use super::numbers;
use super::reject::RejectReason;
use super::simd::{Simd, Task};
use super::strings::{self, Scanned};
use super::walker::{Stop, Walker, byte, skip_space, task};

task!(
    /// Reads the object behind the brace before `at` into row `row`; the place after it.
    ObjectTask, object = object_body(object: usize, at: usize, row: usize, depth: usize) -> usize
);
task!(
    /// Reads the key at `at`, which was not guessed: its number, what it is for, and its value's place.
    KeyTask, find_key = find_key_body(object: usize, at: usize, previous: usize) -> (usize, Target, usize)
);
impl<S: Simd> Walker<'_, S> {
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
    fn members(
        &mut self,
        keys: &mut Vec<Key>,
        object: usize,
        at: usize,
        row: usize,
        depth: usize,
    ) -> Result<usize, Stop> {
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
                let mut found = self.string(at)?;
                found.end = keys[previous].expected_end(at + 1, found.end);
                // The place after it must not come by way of memory: all that follows waits for it.
                if target == Target::SKIP || self.text_value(target.index(), at, found, row)? {
                    found.end + 1
                } else {
                    self.any_value(target.index(), at, row, depth)?
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

    /// The string `found`, whose opening quote is at `at`, into `column`: texts and timestamps. False if it
    /// takes [`Self::any_value`].
    #[inline(always)]
    fn text_value(&mut self, column: usize, at: usize, found: Scanned, row: usize) -> Result<bool, Stop> {
        let text = self.text;
        let (start, end) = (at + 1, found.end);
        match &mut self.machine.columns[column] {
            Column::Text(values) if !found.escaped => {
                let length = end - start;
                let view = if strings::is_inline(length) {
                    strings::inline_view(text, start, length)
                } else if let Some(base) = self.base {
                    values.long = true;
                    strings::long_view(text, start, length, 0, (base + start) as u32)
                } else {
                    return Ok(false);
                };
                values.views.push(row, view)?;
            }
            Column::Timestamp(values) if !found.escaped => {
                let Some(Ok(value)) = text.get(start..end).map(|content| values.parser.parse(content)) else {
                    return Ok(false);
                };
                values.values.push(row, value)?;
                if column == self.stop_at {
                    self.fault.from = end + 1;
                    return Err(Stop::Found);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
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
