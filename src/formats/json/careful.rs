//! The second reading of a record that the fast walk gave up on.
//!
//! The fast walk stops at a repeated key and at a value of a wrong type. Neither need be the end: of
//! repeated keys the last one counts, so it may replace the wrong value, or a whole object with it. Here the
//! record is first checked in full (so a fault of syntax is always told as that), then each object is gone
//! over once to find the last value of each wanted key, and only those are read. What is refused now is refused.

use super::simd::{Simd, Task};
use super::strings;
use super::walk::{Fault, Stop, Walker, byte, skip_space, task};

task!(
    /// Reads the whole record into row `row`.
    CarefulTask, careful_record = careful_record_body(row: usize) -> ()
);

/// No value was found for a column.
const NOWHERE: usize = usize::MAX;

impl<S: Simd> Walker<'_, S> {
    #[inline(always)]
    fn careful_record_body(&mut self, row: usize) -> Result<(), Stop> {
        self.careful = true;
        self.fault = Fault::default();
        let start = skip_space(self.text, 0);
        let after = self.skip_value(start, 0)?;
        self.finish(after)?;
        if byte(self.text, start) != b'{' {
            return Err(Stop::NotAnObject);
        }
        self.careful_object(0, start + 1, row, 0)?;
        Ok(())
    }

    /// As `object`; every row of every column gets at most one value here.
    pub(super) fn careful_object(&mut self, object: usize, at: usize, row: usize, depth: usize) -> Result<usize, Stop> {
        let text = self.text;
        let depth = depth + 1;
        if depth >= self.max_depth {
            return Err(self.too_deep(at));
        }
        let columns = self.machine.objects[object].columns.clone();
        let mut last = vec![NOWHERE; columns.len()];
        let mut name = Vec::new();
        let mut at = skip_space(text, at);
        while byte(text, at) != b'}' {
            let (start, end, escaped, value_at) = self.key(at)?;
            let raw = text.get(start..end).unwrap_or_default();
            name.clear();
            if escaped {
                strings::unescape(raw, &mut name);
            } else {
                name.extend_from_slice(raw);
            }
            if let Some(wanted) = self.machine.objects[object].wanted(&name)
                && let Some(place) = columns.iter().position(|column| *column == wanted)
            {
                last[place] = value_at;
            }
            at = skip_space(text, self.skip_value(value_at, depth)?);
            if byte(text, at) == b',' {
                at = skip_space(text, at + 1);
            }
        }
        for (column, value_at) in columns.into_iter().zip(last) {
            if value_at != NOWHERE {
                self.any_value(column, value_at, row, depth)?;
            }
        }
        self.check_required(object, row)?;
        Ok(at + 1)
    }
}
