//! stub
use super::function::*;
pub(crate) const PRINTF: Definition = define("printf", "s[a*", Returns::Text, Nulls::Possible, |call| call.text(|_| None::<&str>));
