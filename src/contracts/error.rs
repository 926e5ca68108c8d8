//! The one public error of the crate.
//!
//! A message says what went wrong, in lower case and without a final stop; the location says where
//! (a place in a `.sql` file, or stream/shard/sequence number in the context); the hint says what to
//! do. The [`ErrorKind`] tells a caller whether trying again can help.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

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
    /// A service or disk did not answer. Retried with back-off by its connector before it shows.
    Unavailable,
    /// Another worker owns the job now. This one must stop; never retried.
    Fenced,
    /// Stored state or positions cannot be read. Restore an older one or start `--fresh`.
    Corrupt,
    /// The same records have made a query fail too often. Look at the records that the message names; never retried.
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
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with `message` (lower case, no final stop).
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            locations: Vec::new(),
            hint: None,
            context: Vec::new(),
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
            Io::PermissionDenied => "may the user of the process write there?",
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
        write!(f, "{}", inner.message)?;
        if let Some(source) = &inner.source {
            let text = source.to_string();
            if !inner.message.contains(&text) {
                write!(f, ": {text}")?;
            }
        }
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
    fn what_does_not_pass_by_itself_on_a_disk_is_no_outage() {
        use std::io::ErrorKind as Io;
        let kind = |io: Io| Error::of_disk("cannot write 'a'", io.into()).kind();
        let not_passing = [Io::PermissionDenied, Io::ReadOnlyFilesystem, Io::NotADirectory, Io::AlreadyExists];
        assert!(not_passing.into_iter().all(|io| kind(io) == ErrorKind::Config));
        assert!([Io::StorageFull, Io::Interrupted, Io::Other].into_iter().all(|io| kind(io) == ErrorKind::Unavailable));
        let error = Error::of_disk("cannot write 'a'", Io::PermissionDenied.into());
        assert!(error.to_string().ends_with("hint: may the user of the process write there?"), "{error}");
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
