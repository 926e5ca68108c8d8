//! Lists and maps: their items are rows of columns of their own.

use super::columns::Column;
use super::reject::RejectReason;
use super::simd::{Simd, Task};
use super::strings;
use super::walk::{Stop, Walker, byte, skip_space, task};

task!(
    /// Reads the array behind the bracket before `at` into row `row` of list `column`; the place after it.
    ListTask, list = list_body(column: usize, at: usize, row: usize, depth: usize) -> usize
);
task!(
    /// Reads the object at `at` into row `row` of map `column`; the place after it.
    MapTask, map = map_body(column: usize, at: usize, row: usize, depth: usize) -> usize
);

/// One entry of a map before its value is read.
struct Entry {
    key: Vec<u8>,
    value_at: usize,
}

impl<S: Simd> Walker<'_, S> {
    #[inline(always)]
    fn list_body(&mut self, column: usize, at: usize, row: usize, depth: usize) -> Result<usize, Stop> {
        let text = self.text;
        let depth = depth + 1;
        if depth >= self.max_depth {
            return Err(self.too_deep(at));
        }
        let Column::List(list) = &mut self.machine.columns[column] else {
            return Err(Stop::Value(RejectReason::WrongType));
        };
        let item = list.item;
        let mut items = list.offsets.begin(row)?;
        let mut at = skip_space(text, at);
        if byte(text, at) != b']' {
            loop {
                at = self.any_value(item, at, items, depth)?;
                self.check_item(item, items)?;
                items += 1;
                at = skip_space(text, at);
                match byte(text, at) {
                    b',' => at = skip_space(text, at + 1),
                    b']' => break,
                    _ => return Err(self.syntax(at)),
                }
            }
        }
        if let Column::List(list) = &mut self.machine.columns[column] {
            list.offsets.push(items)?;
        }
        Ok(at + 1)
    }

    /// An item without a value is refused where the schema says NOT NULL.
    #[inline(always)]
    fn check_item(&mut self, item: usize, row: usize) -> Result<(), Stop> {
        if self.machine.required[item] && self.machine.columns[item].rows() != row + 1 {
            return Err(self.refuse(Stop::Value(RejectReason::MissingField), item, 0, 0));
        }
        Ok(())
    }

    /// Goes over the object twice: for a repeated key only the last value counts, and only then is it
    /// known which values to read.
    #[inline(always)]
    fn map_body(&mut self, column: usize, at: usize, row: usize, depth: usize) -> Result<usize, Stop> {
        let Column::Map(map) = &mut self.machine.columns[column] else {
            return Err(Stop::Value(RejectReason::WrongType));
        };
        let (keys, values) = (map.keys, map.values);
        let mut items = map.offsets.begin(row)?;
        let (mut entries, after) = self.entries(at, depth + 1)?;
        keep_last(&mut entries);
        for entry in entries {
            self.push_key(keys, items, &entry.key)?;
            self.any_value(values, entry.value_at, items, depth + 1)?;
            self.check_item(values, items)?;
            items += 1;
        }
        if let Column::Map(map) = &mut self.machine.columns[column] {
            map.offsets.push(items)?;
        }
        Ok(after)
    }

    #[inline(always)]
    fn entries(&mut self, at: usize, depth: usize) -> Result<(Vec<Entry>, usize), Stop> {
        let text = self.text;
        if depth >= self.max_depth {
            return Err(self.too_deep(at));
        }
        let mut entries = Vec::new();
        let mut at = skip_space(text, at + 1);
        if byte(text, at) == b'}' {
            return Ok((entries, at + 1));
        }
        loop {
            let (start, end, escaped, value_at) = self.key(at)?;
            let raw = text.get(start..end).unwrap_or_default();
            let mut key = Vec::new();
            if escaped {
                strings::unescape(raw, &mut key);
            } else {
                key.extend_from_slice(raw);
            }
            entries.push(Entry { key, value_at });
            at = skip_space(text, self.skip_value(value_at, depth)?);
            match byte(text, at) {
                b',' => at = skip_space(text, at + 1),
                b'}' => return Ok((entries, at + 1)),
                _ => return Err(self.syntax(at)),
            }
        }
    }

    /// Map keys are copied, since the places of those that had escapes are lost.
    fn push_key(&mut self, column: usize, row: usize, key: &[u8]) -> Result<(), Stop> {
        let machine = &mut *self.machine;
        match &mut machine.columns[column] {
            Column::Text(values) => super::values::push_text(values, &mut machine.side, row, key, false, None),
            Column::Chars(values) => values.push_with(row, |bytes| {
                bytes.extend_from_slice(key);
                Ok(())
            }),
            _ => Err(Stop::Value(RejectReason::WrongType)),
        }
    }
}

/// Drops each entry whose key comes again. By sorting, so that a map of many keys costs no square.
fn keep_last(entries: &mut Vec<Entry>) {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by(|a, b| entries[*a].key.cmp(&entries[*b].key));
    let mut repeated = vec![false; entries.len()];
    let mut any = false;
    for pair in order.windows(2) {
        // The sort is stable: of equal keys the later one comes later.
        if entries[pair[0]].key == entries[pair[1]].key {
            repeated[pair[0]] = true;
            any = true;
        }
    }
    if any {
        let mut repeated = repeated.into_iter();
        entries.retain(|_| !repeated.next().unwrap_or(false));
    }
}
