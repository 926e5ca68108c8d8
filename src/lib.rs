//! Tidemill.
#![warn(unreachable_pub, missing_docs, unsafe_code)]
#![warn(clippy::unwrap_used, clippy::large_enum_variant)]
pub mod sql {
    //! SQL.
    pub mod functions;
}
