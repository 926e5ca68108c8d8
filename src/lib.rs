//! Tidemill.
pub mod sql {
    pub mod functions;
}
