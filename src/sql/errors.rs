//! DataFusion's planning errors as ours: with the place in the file, and a hint.

use datafusion::common::{DataFusionError, SchemaError};
use sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::catalog::{nearest, with_nearest};
use super::statement::Statement;
use super::text::{HINT_MARK, lower_first};
use crate::contracts::{Error, ErrorKind};

/// What hints can be taken from.
pub(crate) struct Known<'a> {
    pub(crate) tables: Vec<&'a str>,
    pub(crate) functions: Vec<String>,
    /// Fields of nested columns.
    pub(crate) fields: Vec<String>,
}

/// Translates an error that planning `statement` gave.
pub(crate) fn translate(error: &DataFusionError, statement: &Statement, known: &Known<'_>) -> Error {
    // Our own errors travel through DataFusion's planner as external ones.
    if let Some(own) = own_error(error) {
        return own.locate(statement);
    }
    let root = error.find_root();
    if let DataFusionError::External(inner) = root
        && let Some(ours) = inner.downcast_ref::<Error>()
    {
        let again = Error::new(ours.kind(), ours.to_string());
        return again.at(statement.at(head(statement)));
    }
    if let DataFusionError::SchemaError(schema_error, _) = root {
        return schema(schema_error, statement);
    }
    let span = error.diagnostic().and_then(|d| d.span).map(|s| {
        use sqlparser::tokenizer::Location;
        Span::new(Location::new(s.start.line, s.start.column), Location::new(s.end.line, s.end.column))
    });
    let text = root.strip_backtrace();
    let text = text
        .trim_start_matches("Error during planning: ")
        .trim_start_matches("This feature is not implemented: ")
        .trim_start_matches("Execution error: ");
    let mut text = text.replace("datafusion.public.", "");
    // A marked name is that of a table with a hint.
    while let Some(at) = text.find(HINT_MARK) {
        let end = text[at + 1..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |i| at + 1 + i);
        text.replace_range(at..end, "");
    }
    if let Some(name) = between(&text, "table '", "'").filter(|_| text.contains("not found")) {
        let short = name.rsplit('.').next().unwrap_or(&name);
        let error = Error::sql(format!("table or view '{short}' not found")).at(find(statement, short, span));
        return with_nearest(error, short, known.tables.iter().copied());
    }
    if let Some(name) = between(&text, "Invalid function '", "'") {
        let error = Error::sql(format!("function '{name}' not found")).at(find(statement, &name, span));
        return with_nearest(error, &name, known.functions.iter().map(String::as_str));
    }
    if let Some(name) = between(&text, "ield ", " not found in struct") {
        let error = Error::sql(format!("field '{name}' not found")).at(find(statement, &name, span));
        return with_nearest(error, &name, known.fields.iter().map(String::as_str));
    }
    if let Some(name) = between(&text, "olumn \"", "\" must appear in the GROUP BY") {
        let short = name.rsplit('.').next().unwrap_or(&name);
        return Error::sql(format!("column '{short}' is neither in GROUP BY nor inside an aggregate"))
            .at(find(statement, short, span))
            .hint(format!("add it to GROUP BY, or take one of its values: MAX({short})"));
    }
    let (text, hint) = super::jargon::plain(&text);
    let message = text.lines().next().unwrap_or_default().trim().trim_end_matches('.').to_owned();
    // The first quoted or called name that stands in the statement is the best place there is.
    let words = message.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| w.len() > 1);
    let place = match span {
        Some(span) => Some(span),
        None => words.filter_map(|word| token(statement, word)).next().map(|t| t.span),
    };
    let kind = if matches!(root, DataFusionError::Internal(_)) { ErrorKind::Internal } else { ErrorKind::Sql };
    let error = Error::new(kind, lower_first(&message)).at(statement.at(place.unwrap_or(head(statement))));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// An error with a word instead of a place: planning hooks know names, not files.
#[derive(Debug)]
pub(crate) struct PlanError {
    pub(crate) message: String,
    /// The first of them that stands in the statement is the place.
    pub(crate) words: Vec<String>,
    pub(crate) span: Option<Span>,
    pub(crate) hint: Option<String>,
}

impl PlanError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), words: Vec::new(), span: None, hint: None }
    }

    pub(crate) fn word(mut self, word: impl Into<String>) -> Self {
        self.words = vec![word.into()];
        self
    }

    /// For what has several names.
    pub(crate) fn one_of(mut self, words: impl IntoIterator<Item = String>) -> Self {
        self.words = words.into_iter().collect();
        self
    }

    pub(crate) fn span(mut self, span: Span) -> Self {
        self.span = Some(span);
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The error with a place in the statement.
    pub(crate) fn locate(&self, statement: &Statement) -> Error {
        let span = self.span.filter(|s| s.start.line > 0);
        let found = || self.words.iter().find_map(|word| token(statement, word)).map(|token| token.span);
        let place = statement.at(span.or_else(found).unwrap_or(head(statement)));
        let error = Error::sql(self.message.clone()).at(place);
        match &self.hint {
            Some(hint) => error.hint(hint.clone()),
            None => error,
        }
    }
}

impl std::fmt::Display for PlanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for PlanError {}

impl From<PlanError> for DataFusionError {
    fn from(error: PlanError) -> Self {
        Self::External(Box::new(error))
    }
}

fn own_error(error: &DataFusionError) -> Option<&PlanError> {
    match error {
        DataFusionError::External(inner) => inner.downcast_ref::<PlanError>(),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => own_error(inner),
        DataFusionError::Shared(inner) => own_error(inner),
        DataFusionError::Collection(errors) => errors.iter().find_map(own_error),
        _ => None,
    }
}

fn schema(error: &SchemaError, statement: &Statement) -> Error {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let name = &field.name;
            let problem = Error::sql(format!("column '{name}' not found")).at(find(statement, name, None));
            let names: Vec<&str> = valid_fields.iter().map(|c| c.name.as_str()).collect();
            match nearest(name, names.iter().copied()) {
                Some(near) => problem.hint(format!("did you mean '{near}'?")),
                None if names.is_empty() => problem,
                None => problem.hint(format!("columns here: {}", names[..names.len().min(12)].join(", "))),
            }
        }
        SchemaError::AmbiguousReference { field } => {
            Error::sql(format!("column '{}' is in more than one table", field.name))
                .at(find(statement, &field.name, None))
                .hint("write the table's name before it")
        }
        other => {
            let message = lower_first(&other.to_string());
            let word = message.split('"').nth(1).map(str::to_owned).unwrap_or_default();
            Error::sql(message).at(find(statement, &word, None))
        }
    }
}

fn token<'a>(statement: &'a Statement, word: &str) -> Option<&'a TokenWithSpan> {
    statement.tokens.iter().find(|t| match &t.token {
        Token::Word(w) => w.value.split(HINT_MARK).next().is_some_and(|value| value.eq_ignore_ascii_case(word)),
        _ => false,
    })
}

/// The place of the word in the statement, else of the span, else of the statement's beginning.
pub(crate) fn find(statement: &Statement, word: &str, span: Option<Span>) -> crate::contracts::Location {
    let span = span.filter(|s| s.start.line > 0).or_else(|| token(statement, word).map(|t| t.span));
    statement.at(span.unwrap_or(head(statement)))
}

/// The first word of the statement.
fn head(statement: &Statement) -> Span {
    statement.tokens.first().map_or(statement.span, |t| t.span)
}

fn between(text: &str, before: &str, after: &str) -> Option<String> {
    let start = text.find(before)? + before.len();
    let length = text[start..].find(after)?;
    Some(text[start..start + length].to_owned())
}
