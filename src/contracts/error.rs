//! The one public error of the crate.
//!
//! A message says what went wrong, in lower case and without a final stop; the location says where
//! (a place in a `.sql` file, or stream/shard/sequence number in the context); the hint says what to
//! do. The [`ErrorKind`] tells a caller whether trying again can help.

use std::error::Error as StdError;
use std::sync::Arc;
use std::{fmt, io};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who must act, and whether a retry can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An option, parameter or path is wrong. Change it; never retried.
    Config,
    /// A `.sql` file is wrong. Change it; never retried.
    Sql,
    /// A row made a query or sink fail. Look at the record named in the context; never retried.
    Data,
    /// A service or disk did not answer; or this machine has not enough for the job ([`Error::is_of_this_machine`]). Retried with back-off
    /// by its connector before it shows.
    Unavailable,
    /// Another worker owns the job now. This one must stop; never retried.
    Fenced,
    /// Stored state or positions cannot be read. Restore an older one or start `--fresh`.
    Corrupt,
    /// The same epoch has made a query fail too often. Look at the records that the message names, or, where it fails without them too, at
    /// the windows that close there; never retried.
    Poison,
    /// A bug in Tidemill. Report it with the message; never retried.
    Internal,
}

impl ErrorKind {
    /// Lower-case name for logs and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Sql => "sql",
            Self::Data => "data",
            Self::Unavailable => "unavailable",
            Self::Fenced => "fenced",
            Self::Corrupt => "corrupt",
            Self::Poison => "poison",
            Self::Internal => "internal",
        }
    }
}

/// A place in a `.sql` file. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Path as the user gave it.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
    /// Number of characters to underline, at least 1.
    pub length: u64,
    /// The text of the line.
    pub text: Arc<str>,
}

/// What went wrong, where, why and what to do.
///
/// Displayed on several lines when a location or hint is present:
///
/// ```text
/// queries/a.sql:3:8: column 'pag' not found in 'events'
///   |
/// 3 | SELECT pag FROM events
///   |        ^^^
///   hint: did you mean 'page'?
/// ```
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    locations: Vec<Location>,
    hint: Option<String>,
    context: Vec<String>,
    of_this_machine: bool,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What a file system says when it takes no more.
const FULL: [io::ErrorKind; 5] = [
    io::ErrorKind::StorageFull,
    io::ErrorKind::QuotaExceeded,
    io::ErrorKind::FileTooLarge,
    io::ErrorKind::ReadOnlyFilesystem,
    io::ErrorKind::OutOfMemory,
];

impl Error {
    /// An error of `kind` with `message` (lower case, no final stop).
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            locations: Vec::new(),
            hint: None,
            context: Vec::new(),
            of_this_machine: false,
            source: None,
        }))
    }

    /// A [`ErrorKind::Config`] error.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// A [`ErrorKind::Sql`] error.
    pub fn sql(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Sql, message)
    }

    /// A [`ErrorKind::Data`] error.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    /// A [`ErrorKind::Unavailable`] error.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// A [`ErrorKind::Corrupt`] error.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// A [`ErrorKind::Internal`] error.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// What could not be done on a disk of this machine. What somebody must mend first is a [`ErrorKind::Config`] error, whose hint says
    /// what; all else may pass.
    pub fn of_disk(message: impl Into<String>, error: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let hint = match error.kind() {
            Io::PermissionDenied => "may the user of the process read and write there?",
            Io::ReadOnlyFilesystem => "may the user of the process write there? The disk can only be read",
            Io::NotADirectory | Io::AlreadyExists => "a file is where a folder must be: name another place",
            Io::IsADirectory => "a folder is where a file must be: name another place",
            Io::InvalidFilename => "the name is too long for the disk: name another place",
            _ => return Self::unavailable(message).caused_by(error),
        };
        Self::config(message).caused_by(error).hint(hint)
    }

    /// Adds a place in a file. The first is where the error is; further ones say "also here".
    #[must_use]
    pub fn at(mut self, location: Location) -> Self {
        self.0.locations.push(location);
        self
    }

    /// Says what to do. The last hint wins.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds what the program was doing, innermost first.
    #[must_use]
    pub fn context(mut self, context: impl Into<String>) -> Self {
        self.0.context.push(context.into());
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }

    /// What has failed is memory or disk of this machine, and no service that is out of reach: see [`Error::is_of_this_machine`].
    #[must_use]
    pub fn of_this_machine(mut self) -> Self {
        self.0.of_this_machine = true;
        self
    }

    /// Whether this machine has not enough memory or disk for the job. That may pass (more is given, a disk is cleared), but not by waiting
    /// alone: it is tried as often as a failure that counts, so that somebody sees it.
    pub fn is_of_this_machine(&self) -> bool {
        let is_full = |cause: &(dyn StdError + 'static)| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| FULL.contains(&error.kind()))
                || cause.downcast_ref::<Self>().is_some_and(|error| error.0.of_this_machine)
        };
        self.0.of_this_machine || self.causes().any(is_full)
    }

    /// Whether what it writes to (`… | head`) has no reader any more.
    pub fn is_without_reader(&self) -> bool {
        let is_broken = |cause: &(dyn StdError + 'static)| {
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
        };
        // A service's connection that breaks is a service that is out of reach.
        self.0.kind == ErrorKind::Config && self.causes().any(is_broken)
    }

    fn causes(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        std::iter::successors(StdError::source(self), |cause: &&(dyn StdError + 'static)| (*cause).source())
    }

    /// The same once more, for whoever has only lent it. What has caused it is in its message.
    #[must_use]
    pub fn again(&self) -> Self {
        let inner = &self.0;
        Self(Box::new(Inner {
            kind: inner.kind,
            message: self.with_cause(),
            locations: inner.locations.clone(),
            hint: inner.hint.clone(),
            context: inner.context.clone(),
            of_this_machine: self.is_of_this_machine(),
            source: None,
        }))
    }

    /// The message, and what has caused it unless the message says so.
    fn with_cause(&self) -> String {
        let Inner { message, source, .. } = &*self.0;
        match source.as_ref().map(ToString::to_string) {
            Some(text) if !message.contains(&text) => format!("{message}: {text}"),
            _ => message.clone(),
        }
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The bare message, without place, context or hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Places in files, the main one first.
    pub fn locations(&self) -> &[Location] {
        &self.0.locations
    }

    /// The hint, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

fn write_location(f: &mut fmt::Formatter<'_>, location: &Location) -> fmt::Result {
    let number = location.line.to_string();
    let margin = " ".repeat(number.len());
    // Tabs are kept in the caret line so that it lines up whatever the terminal's tab width.
    let before: String = location
        .text
        .chars()
        .take(location.column.saturating_sub(1) as usize)
        .map(|c| if c == '\t' { '\t' } else { ' ' })
        .collect();
    let carets = "^".repeat(location.length.max(1) as usize);
    write!(f, "\n{margin} |\n{number} | {}\n{margin} | {before}{carets}", location.text)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        if let Some(l) = inner.locations.first() {
            write!(f, "{}:{}:{}: ", l.file, l.line, l.column)?;
        }
        for context in inner.context.iter().rev() {
            write!(f, "{context}: ")?;
        }
        write!(f, "{}", self.with_cause())?;
        for (i, location) in inner.locations.iter().enumerate() {
            if i > 0 {
                write!(f, "\n  also at {}:{}:{}", location.file, location.line, location.column)?;
            }
            write_location(f, location)?;
        }
        if let Some(hint) = &inner.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|s| s.as_ref() as &(dyn StdError + 'static))
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::internal("arrow kernel failed").caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_told_from_a_service_that_is_away() {
        let caused = |kind: io::ErrorKind| Error::unavailable("it has failed").caused_by(io::Error::from(kind));
        for kind in FULL {
            assert!(caused(kind).is_of_this_machine(), "{kind}");
            // Also from far below, and when it is told once more.
            let outer = Error::unavailable("a checkpoint").caused_by(caused(kind));
            assert!(outer.is_of_this_machine() && outer.again().is_of_this_machine(), "{kind}");
            assert_eq!(outer.again().to_string(), outer.to_string());
        }
        assert!(!caused(io::ErrorKind::ConnectionRefused).is_of_this_machine());
        let error = Error::unavailable("too little memory").of_this_machine();
        let hinted = error.hint("more").context("query 'a'");
        assert!(hinted.is_of_this_machine() && hinted.again().is_of_this_machine());
        assert_eq!(hinted.again().to_string(), "query 'a': too little memory\n  hint: more");
        assert!(Error::unavailable("outer").caused_by(hinted).is_of_this_machine());
    }

    #[test]
    fn an_output_that_has_lost_its_reader_is_told_from_a_connection_that_broke() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(Error::config("nobody reads it").caused_by(broken()).context("query 'a'").is_without_reader());
        assert!(!Error::unavailable("no answer").caused_by(broken()).is_without_reader());
        assert!(!Error::config("a wrong path").is_without_reader());
    }

    #[test]
    fn what_does_not_pass_by_itself_on_a_disk_is_no_outage() {
        use std::io::ErrorKind as Io;
        let kind = |io: Io| Error::of_disk("cannot write 'a'", io.into()).kind();
        let not_passing = [Io::PermissionDenied, Io::ReadOnlyFilesystem, Io::NotADirectory, Io::AlreadyExists];
        assert!(not_passing.into_iter().all(|io| kind(io) == ErrorKind::Config));
        assert!([Io::StorageFull, Io::Interrupted, Io::Other].into_iter().all(|io| kind(io) == ErrorKind::Unavailable));
        let error = Error::of_disk("cannot write 'a'", Io::PermissionDenied.into());
        assert!(error.to_string().ends_with("hint: may the user of the process read and write there?"), "{error}");
    }

    #[test]
    fn caret_stands_under_the_text() {
        let error = Error::sql("column 'pag' not found")
            .at(Location { file: "a.sql".into(), line: 12, column: 8, length: 3, text: "SELECT pag FROM t".into() })
            .hint("did you mean 'page'?");
        let expected = "a.sql:12:8: column 'pag' not found\n   |\n12 | SELECT pag FROM t\n   |        ^^^\n  hint: did you mean 'page'?";
        assert_eq!(error.to_string(), expected);
    }
}
