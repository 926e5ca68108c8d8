//! stub
use super::function::Definition;
pub(crate) const DEFINITIONS: &[Definition] = &[];
