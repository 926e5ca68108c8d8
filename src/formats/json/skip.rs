//! Values that nobody wants: checked in full, kept nowhere.
//!
//! Nesting is held as bits of one integer, not on the stack, so its depth costs nothing and cannot
//! overflow anything.

use super::numbers;
use super::simd::{Simd, Task};
use super::walk::{Stop, Walker, byte, skip_space, task};

/// Deepest nesting that the bits hold; `max_depth` is at most this.
pub(super) const MAX_DEPTH: usize = 128;

task!(
    /// Skips the object or array at `at`, inside of `depth` others; the place after it.
    ContainerTask, skip_container = skip_container_body(at: usize, depth: usize) -> usize
);

impl<S: Simd> Walker<'_, S> {
    /// Skips the value at `at`, inside of `depth` objects and arrays; the place after it.
    #[inline(always)]
    pub(super) fn skip_value(&mut self, at: usize, depth: usize) -> Result<usize, Stop> {
        match byte(self.text, at) {
            b'"' => Ok(self.string(at)?.end + 1),
            b'{' | b'[' => self.skip_container(at, depth),
            b'-' | b'0'..=b'9' => numbers::skip(self.text, at).map_err(|fault| self.syntax(fault)),
            _ => self.skip_literal(at),
        }
    }

    #[inline(always)]
    fn skip_literal(&mut self, at: usize) -> Result<usize, Stop> {
        let rest = self.text.get(at..).unwrap_or_default();
        match rest {
            [b't', b'r', b'u', b'e', ..] | [b'n', b'u', b'l', b'l', ..] => Ok(at + 4),
            [b'f', b'a', b'l', b's', b'e', ..] => Ok(at + 5),
            _ => Err(self.syntax(at)),
        }
    }

    #[inline(always)]
    fn skip_container_body(&mut self, at: usize, depth: usize) -> Result<usize, Stop> {
        let text = self.text;
        // The kinds of the open ones, innermost lowest: 1 is an object.
        let mut kinds = 0u128;
        let mut open = 0;
        let mut at = at;
        loop {
            // A value begins at `at`.
            match byte(text, at) {
                opening @ (b'{' | b'[') => {
                    open += 1;
                    if depth + open >= self.max_depth {
                        return Err(self.too_deep(at));
                    }
                    let is_object = opening == b'{';
                    kinds = kinds << 1 | u128::from(is_object);
                    at = skip_space(text, at + 1);
                    // `{` and `[` are each two before what closes them.
                    if byte(text, at) != opening + 2 {
                        if is_object {
                            at = self.key(at)?.3;
                        }
                        continue;
                    }
                    at += 1;
                    open -= 1;
                    kinds >>= 1;
                }
                b'"' => at = self.string(at)?.end + 1,
                b'-' | b'0'..=b'9' => at = numbers::skip(text, at).map_err(|fault| self.syntax(fault))?,
                _ => at = self.skip_literal(at)?,
            }
            // A value ended before `at`.
            loop {
                if open == 0 {
                    return Ok(at);
                }
                at = skip_space(text, at);
                let in_object = kinds & 1 == 1;
                match byte(text, at) {
                    b',' => {
                        at = skip_space(text, at + 1);
                        if in_object {
                            at = self.key(at)?.3;
                        }
                        break;
                    }
                    b'}' if in_object => {}
                    b']' if !in_object => {}
                    _ => return Err(self.syntax(at)),
                }
                at += 1;
                open -= 1;
                kinds >>= 1;
            }
        }
    }
}
