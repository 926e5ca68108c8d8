//! What a folder of files declares: tables, views, INSERTs and settings, with every name once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use sqlparser::ast::{Query, visit_relations};
use sqlparser::tokenizer::Span;

use super::ddl::DeclaredWatermark;
use super::statement::{ColumnKind, CreateTable, Insert, OptionPair, ParsedFile, Statement, StatementKind};
use super::text::{HINT_MARK, Hints, SqlText};
use crate::contracts::{Error, Location, Result};

/// One column of a declared table.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) span: Span,
    pub(crate) kind: ColumnKind,
}

/// A declared table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) statement: Arc<Statement>,
    pub(crate) name_span: Span,
    pub(crate) connector: String,
    /// Options without `connector`.
    pub(crate) options: BTreeMap<String, String>,
    /// As written, for pointing at them.
    pub(crate) option_places: Vec<OptionPair>,
    pub(crate) columns: Vec<Column>,
    pub(crate) watermark: Option<DeclaredWatermark>,
    pub(crate) primary_key: Vec<String>,
    pub(crate) partitioned_by: Vec<String>,
}

/// A declared view.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) name: String,
    pub(crate) statement: Arc<Statement>,
    pub(crate) name_span: Span,
    pub(crate) columns: Vec<String>,
    pub(crate) query: Box<Query>,
}

/// An `INSERT INTO`.
#[derive(Debug, Clone)]
pub(crate) struct InsertQuery {
    /// Name for people and for saved state: `file:sink`, with a number where that is not unique.
    pub(crate) name: String,
    pub(crate) statement: Arc<Statement>,
    pub(crate) insert: Insert,
}

/// Everything that the files declare.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) tables: BTreeMap<String, Table>,
    pub(crate) views: BTreeMap<String, View>,
    pub(crate) inserts: Vec<InsertQuery>,
    pub(crate) settings: BTreeMap<String, (String, Location)>,
    pub(crate) hints: Hints,
}

impl Statement {
    /// Place of a span of this statement.
    pub(crate) fn at(&self, span: Span) -> Location {
        self.text.location(span)
    }
}

impl Table {
    /// Physical columns as Arrow fields, in DDL order.
    pub(crate) fn physical(&self) -> Vec<Field> {
        let field = |column: &Column| match &column.kind {
            ColumnKind::Physical { data_type, nullable } => {
                Some(Field::new(&column.name, data_type.clone(), *nullable))
            }
            _ => None,
        };
        self.columns.iter().filter_map(field).collect()
    }

    /// Schema of the physical columns.
    pub(crate) fn physical_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.physical()))
    }

    /// Columns that an INSERT writes: physical ones, and metadata columns that are not VIRTUAL.
    pub(crate) fn writable(&self) -> Vec<Field> {
        let field = |column: &Column| match &column.kind {
            ColumnKind::Physical { data_type, nullable } => {
                Some(Field::new(&column.name, data_type.clone(), *nullable))
            }
            ColumnKind::Metadata { data_type, nullable, is_virtual: false, .. } => {
                Some(Field::new(&column.name, data_type.clone(), *nullable))
            }
            _ => None,
        };
        self.columns.iter().filter_map(field).collect()
    }

    pub(crate) fn option(&self, key: &str) -> Option<&str> {
        self.options.get(key).map(String::as_str)
    }

    /// Whether the table can stand on the still side of a join: files without a watermark that are not
    /// watched for new ones.
    pub(crate) fn can_be_reference(&self) -> bool {
        matches!(self.connector.as_str(), "filesystem" | "s3")
            && self.watermark.is_none()
            && self.option("source.monitor-interval").is_none()
    }

    /// Whether the values of a column are in the records' bytes: it is none of the connector's metadata, and none that the folders of files
    /// have in their names.
    pub(crate) fn is_in_records(&self, column: &str) -> bool {
        let is_physical = |c: &Column| c.name == column && matches!(c.kind, ColumnKind::Physical { .. });
        let has_folders = matches!(self.connector.as_str(), "filesystem" | "s3");
        let is_in_folders = has_folders && self.partitioned_by.iter().any(|name| name == column);
        self.columns.iter().any(is_physical) && !is_in_folders
    }

    /// Whether rows are looked up in it by their key, and it is never read as a whole.
    pub(crate) fn is_looked_up(&self) -> bool {
        self.connector == "dynamodb"
    }

    /// The columns of its key: PRIMARY KEY, or, as Flink has it for DynamoDB, PARTITIONED BY.
    pub(crate) fn lookup_key(&self) -> &[String] {
        if self.primary_key.is_empty() { &self.partitioned_by } else { &self.primary_key }
    }

    /// By what rows replace each other in it: what its connector takes for the key.
    pub(crate) fn sink_key(&self) -> &[String] {
        if self.connector == "dynamodb" { self.lookup_key() } else { &self.primary_key }
    }

    /// Where the option stands, or else the table's name.
    pub(crate) fn option_place(&self, key: &str, value: bool) -> Location {
        let pair = self.option_places.iter().find(|p| p.key == key);
        let span = pair.map_or(self.name_span, |p| if value { p.value_span } else { p.key_span });
        self.statement.at(span)
    }
}

impl Catalog {
    /// Takes the statements of all files. Errors are gathered, so that a person sees all at once.
    pub(crate) fn build(files: Vec<ParsedFile>, hints: Hints, errors: &mut Vec<Error>) -> Self {
        let mut catalog = Self { hints, ..Self::default() };
        for file in files {
            errors.extend(file.errors);
            for statement in file.statements {
                if let Err(error) = catalog.add(Arc::new(statement)) {
                    errors.push(error);
                }
            }
        }
        catalog
    }

    fn add(&mut self, statement: Arc<Statement>) -> Result<()> {
        match statement.kind.clone() {
            StatementKind::CreateTable(table) => self.add_table(*table, statement),
            StatementKind::CreateView(view) => {
                if view.if_not_exists && self.place_of(&view.name.value).is_some() {
                    return Ok(());
                }
                self.check_new(&view.name.value, statement.at(view.name.span))?;
                let name = view.name.value.clone();
                let columns = view.columns.into_iter().map(|c| c.value).collect();
                let view =
                    View { name: name.clone(), name_span: view.name.span, statement, columns, query: view.query };
                self.views.insert(name, view);
                Ok(())
            }
            StatementKind::Insert(insert) => {
                let stem = file_stem(&statement.text.file);
                let target = insert.table.value.split(HINT_MARK).next().unwrap_or_default();
                let base = format!("{stem}:{target}");
                let same = self.inserts.iter().filter(|i| i.name == base || i.name.starts_with(&format!("{base}#")));
                let name = match same.count() {
                    0 => base,
                    n => format!("{base}#{}", n + 1),
                };
                self.inserts.push(InsertQuery { name, statement, insert: *insert });
                Ok(())
            }
            StatementKind::Set { key, value } => {
                let place = statement.at(statement.span);
                // In one file the last one holds, as in Flink; files have no order.
                if let Some((other, first)) = self.settings.get(&key)
                    && *other != value
                    && first.file != place.file
                {
                    return Err(Error::sql(format!(
                        "'{key}' is set to '{value}' here and to '{other}' in another file"
                    ))
                    .at(place)
                    .at(first.clone())
                    .hint("settings hold for the whole job: keep one of them"));
                }
                self.settings.insert(key, (value, place));
                Ok(())
            }
            StatementKind::Nothing => Ok(()),
        }
    }

    fn place_of(&self, name: &str) -> Option<Location> {
        let table = self.tables.get(name).map(|t| t.statement.at(t.name_span));
        table.or_else(|| self.views.get(name).map(|v| v.statement.at(v.name_span)))
    }

    fn check_new(&self, name: &str, place: Location) -> Result<()> {
        match self.place_of(name) {
            None => Ok(()),
            Some(first) => Err(Error::sql(format!("'{name}' is declared twice"))
                .at(place)
                .at(first)
                .hint("names are global in a job: rename one of them")),
        }
    }

    fn add_table(&mut self, declared: CreateTable, statement: Arc<Statement>) -> Result<()> {
        let name = declared.name.value.clone();
        let place = statement.at(declared.name.span);
        if declared.if_not_exists && self.place_of(&name).is_some() {
            return Ok(());
        }
        self.check_new(&name, place.clone())?;
        let mut options = BTreeMap::new();
        for pair in &declared.options {
            if options.insert(pair.key.clone(), pair.value.clone()).is_some() {
                let error = Error::sql(format!("option '{}' is given twice", pair.key));
                return Err(error.at(statement.at(pair.key_span)));
            }
        }
        let Some(connector) = options.remove("connector") else {
            return Err(Error::sql(format!("table '{name}' has no connector"))
                .at(place)
                .hint("say where it is: WITH ('connector' = 'kinesis', …)"));
        };
        let columns: Vec<Column> = declared
            .columns
            .into_iter()
            .map(|c| Column { name: c.name.value, span: c.name.span, kind: c.kind })
            .collect();
        for (what, keys) in [("primary key", &declared.primary_key), ("PARTITIONED BY", &declared.partitioned_by)] {
            for key in keys {
                if !columns.iter().any(|c| c.name == key.value) {
                    let error =
                        Error::sql(format!("{what} names the column '{}', which '{name}' does not have", key.value));
                    let names = columns.iter().map(|c| c.name.as_str());
                    return Err(with_nearest(error.at(statement.at(key.span)), &key.value, names));
                }
            }
        }
        let values = |idents: Vec<sqlparser::ast::Ident>| idents.into_iter().map(|i| i.value).collect();
        let table = Table {
            name: name.clone(),
            name_span: declared.name.span,
            connector,
            options,
            option_places: declared.options,
            columns,
            watermark: declared.watermark,
            primary_key: values(declared.primary_key),
            partitioned_by: values(declared.partitioned_by),
            statement,
        };
        check_watermark(&table)?;
        self.tables.insert(name, table);
        Ok(())
    }

    /// The table of a name, with the options of its hint if the name is a marked one.
    pub(crate) fn table(&self, name: &str) -> Option<Table> {
        let Some((base, number)) = name.split_once(HINT_MARK) else { return self.tables.get(name).cloned() };
        let mut table = self.tables.get(base)?.clone();
        if let Some(options) = number.parse().ok().and_then(|n: usize| self.hints.get(n)) {
            table.options.extend(options.clone());
        }
        table.name = name.to_owned();
        Some(table)
    }

    /// Where the query names a table with a hint.
    pub(crate) fn hint_place(&self, name: &str) -> Option<Location> {
        let statements = self.inserts.iter().map(|i| &i.statement).chain(self.views.values().map(|v| &v.statement));
        let found = |token: &sqlparser::tokenizer::TokenWithSpan| matches!(&token.token, sqlparser::tokenizer::Token::Word(word) if word.value == name);
        statements.into_iter().find_map(|s| s.tokens.iter().find(|t| found(t)).map(|t| s.at(t.span)))
    }

    /// All names that a query can use, for hints.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tables.keys().chain(self.views.keys()).map(String::as_str)
    }

    /// Views so that each comes after those it uses. A cycle is an error that shows two places.
    pub(crate) fn views_in_order(&self) -> Result<Vec<&View>> {
        let mut done = BTreeSet::new();
        let mut order = Vec::new();
        for view in self.views.values() {
            self.visit_view(view, &mut Vec::new(), &mut done, &mut order)?;
        }
        Ok(order)
    }

    fn visit_view<'a>(
        &'a self,
        view: &'a View,
        path: &mut Vec<&'a View>,
        done: &mut BTreeSet<String>,
        order: &mut Vec<&'a View>,
    ) -> Result<()> {
        if done.contains(&view.name) {
            return Ok(());
        }
        if path.iter().any(|v| v.name == view.name) {
            let names: Vec<_> = path.iter().map(|v| v.name.as_str()).chain([view.name.as_str()]).collect();
            let mut error = Error::sql(format!("views use each other in a circle: {}", names.join(" → ")));
            error = error.at(view.statement.at(view.name_span));
            if let Some(last) = path.last().filter(|last| last.name != view.name) {
                error = error.at(last.statement.at(last.name_span));
            }
            return Err(error.hint("one of them must read from a table"));
        }
        path.push(view);
        for name in relations(&view.query) {
            if let Some(used) = self.views.get(&name) {
                self.visit_view(used, path, done, order)?;
            }
        }
        path.pop();
        done.insert(view.name.clone());
        order.push(view);
        Ok(())
    }
}

/// Names of all relations in a query, also those given to window table functions.
pub(crate) fn relations(query: &Query) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let _ = visit_relations(query, |name| {
        if let Some(ident) = name.0.last().and_then(|part| part.as_ident()) {
            names.insert(ident.value.clone());
        }
        std::ops::ControlFlow::<()>::Continue(())
    });
    names
}

fn check_watermark(table: &Table) -> Result<()> {
    let Some(watermark) = &table.watermark else { return Ok(()) };
    let name = &watermark.column.value;
    let place = || table.statement.at(watermark.column.span);
    let Some(column) = table.columns.iter().find(|c| c.name == *name) else {
        let error = Error::sql(format!("the watermark is on '{name}', which '{}' does not have", table.name));
        return Err(with_nearest(error.at(place()), name, table.columns.iter().map(|c| c.name.as_str())));
    };
    let data_type = match &column.kind {
        ColumnKind::Physical { data_type, .. } | ColumnKind::Metadata { data_type, .. } => data_type,
        ColumnKind::Computed(_) => return Ok(()),
    };
    check_time_type(name, data_type).map_err(|error| error.at(place()))
}

/// A time column must be a TIMESTAMP or TIMESTAMP_LTZ of at most three decimals.
pub(crate) fn check_time_type(name: &str, data_type: &DataType) -> Result<()> {
    use datafusion::arrow::datatypes::TimeUnit::{Millisecond, Second};
    if matches!(data_type, DataType::Timestamp(Second | Millisecond, _)) {
        return Ok(());
    }
    let found = super::types::flink_name(data_type);
    let error = Error::sql(format!("the time column '{name}' is {found}, not TIMESTAMP(3) or TIMESTAMP_LTZ(3)"));
    Err(error.hint(format!("declare a computed column: ts AS TO_TIMESTAMP({name}), and WATERMARK FOR ts")))
}

fn file_stem(file: &str) -> String {
    let path = std::path::Path::new(file);
    path.file_stem().map_or_else(|| file.to_owned(), |stem| stem.to_string_lossy().into_owned())
}

/// The name among `known` that a person most likely meant.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let close = |name: &str| {
        let distance = strsim::damerau_levenshtein(&lower, &name.to_lowercase());
        let limit = (word.chars().count() / 3).max(1);
        (distance <= limit && name != word).then_some(distance)
    };
    known.filter_map(|name| close(name).map(|d| (d, name))).min().map(|(_, name)| name)
}

/// Adds "did you mean" where there is a near name.
pub(crate) fn with_nearest<'a>(error: Error, word: &str, known: impl Iterator<Item = &'a str>) -> Error {
    match nearest(word, known) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error,
    }
}

impl SqlText {
    /// A place at the very start, for errors about a whole file.
    pub(crate) fn start(&self) -> Location {
        self.location(Span::empty())
    }
}
