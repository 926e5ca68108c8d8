//! `CREATE EXTERNAL TABLE` for tables of files on S3, with partition projection: Athena computes the partitions'
//! places, so that no crawler and no `MSCK REPAIR TABLE` is needed.

use arrow::datatypes::{DataType, Fields, SchemaRef};

use crate::contracts::{Error, Result, TableSpec};

/// Years that a projected `year` covers.
const YEARS: &str = "2020,2040";

/// The statement for a table that the job writes; `None` when it is not one of files on S3.
///
/// # Errors
/// A format or a type that Athena cannot read.
pub fn ddl(spec: &TableSpec, connector: &str) -> Result<Option<String>> {
    let path = spec.option("path").unwrap_or_default();
    let on_s3 = ["s3://", "s3a://", "s3n://"].iter().find_map(|scheme| path.strip_prefix(scheme));
    let Some(rest) = on_s3.filter(|_| matches!(connector, "filesystem" | "s3")) else { return Ok(None) };
    let location = format!("s3://{}/", rest.trim_matches('/'));
    let format = spec.require("format")?;
    let stored = match format {
        "parquet" => "STORED AS PARQUET",
        "json" => "ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe'",
        other => {
            return Err(Error::config(format!("table '{}': no statement for Athena is made for '{other}'", spec.name))
                .hint("write the table as parquet (the cheapest to query) or json"));
        }
    };
    let is_json = format == "json";
    let mut columns = Vec::new();
    let mut partitions = Vec::new();
    let mut properties = vec![("projection.enabled".to_owned(), "true".to_owned())];
    let mut notes = Vec::new();
    let written: &SchemaRef = &spec.schema;
    for field in written.fields() {
        if !spec.partitioned_by.contains(field.name()) {
            let data_type = athena_type(field.data_type(), is_json)
                .map_err(|e| e.context(format!("column '{}' of table '{}'", field.name(), spec.name)))?;
            columns.push(format!("  {} {data_type}", quoted(field.name())));
        }
    }
    for name in &spec.partitioned_by {
        let field = written.field_with_name(name).map_err(|_| {
            Error::config(format!("the INSERT into '{}' does not write its partition column '{name}'", spec.name))
        })?;
        let (data_type, projection) = projected(name, field.data_type());
        partitions.push(format!("  {} {data_type}", quoted(name)));
        if projection.iter().any(|(_, value)| value == "injected") {
            notes.push(format!("-- A query must say which {name} it wants: WHERE {name} = '…'.\n"));
        }
        properties.extend(projection.into_iter().map(|(key, value)| (format!("projection.{name}.{key}"), value)));
    }
    let mut folders: String = spec.partitioned_by.iter().map(|name| format!("{name}=${{{name}}}/")).collect();
    for folder in spec.option("sink.partition.pattern").into_iter().flat_map(|p| p.trim_matches('/').split('/')) {
        // Columns that only the folders have: `year={yyyy}`.
        let column = folder.split_once('=').filter(|(_, value)| value.starts_with('{') && value.ends_with('}'));
        let Some((name, _)) = column.filter(|(_, value)| value.matches('{').count() == 1) else {
            return Err(Error::config(format!("table '{}': '{folder}' is no partition to Athena", spec.name))
                .hint("write folders as 'year={yyyy}/month={MM}/day={dd}'"));
        };
        let (data_type, projection) = projected(name, &DataType::Utf8);
        partitions.push(format!("  {} {data_type}", quoted(name)));
        properties.extend(projection.into_iter().map(|(key, value)| (format!("projection.{name}.{key}"), value)));
        folders.push_str(&format!("{name}=${{{name}}}/"));
    }
    let mut text = notes.concat();
    text.push_str(&format!(
        "CREATE EXTERNAL TABLE IF NOT EXISTS {} (\n{}\n)\n",
        quoted(&spec.name),
        columns.join(",\n")
    ));
    if !partitions.is_empty() {
        text.push_str(&format!("PARTITIONED BY (\n{}\n)\n", partitions.join(",\n")));
    }
    text.push_str(&format!("{stored}\nLOCATION '{location}'\n"));
    if !partitions.is_empty() {
        properties.push(("storage.location.template".to_owned(), format!("{location}{folders}")));
        let lines: Vec<String> = properties.iter().map(|(key, value)| format!("  '{key}' = '{value}'")).collect();
        text.push_str(&format!("TBLPROPERTIES (\n{}\n)\n", lines.join(",\n")));
    }
    text.truncate(text.trim_end().len());
    text.push_str(";\n");
    Ok(Some(text))
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.to_lowercase())
}

/// Type and projection of a partition column, by its name and type.
fn projected(name: &str, data_type: &DataType) -> (&'static str, Vec<(&'static str, String)>) {
    let integer = |range: &str, digits: &str| {
        let mut properties = vec![("type", "integer".to_owned()), ("range", range.to_owned())];
        // Numbers have no leading zeros in a path, texts of a date have them.
        if !data_type.is_numeric() {
            properties.push(("digits", digits.to_owned()));
        }
        (if data_type.is_numeric() { "int" } else { "string" }, properties)
    };
    match name.to_lowercase().as_str() {
        "year" => integer(YEARS, "4"),
        "month" => integer("1,12", "2"),
        "day" => integer("1,31", "2"),
        "hour" => integer("0,23", "2"),
        "minute" => integer("0,59", "2"),
        "date" | "dt" | "ds" => (
            "string",
            vec![
                ("type", "date".to_owned()),
                ("format", "yyyy-MM-dd".to_owned()),
                ("range", format!("{}-01-01,NOW", &YEARS[..4])),
            ],
        ),
        _ => ("string", vec![("type", "injected".to_owned())]),
    }
}

/// The type as Athena has it.
fn athena_type(data_type: &DataType, is_json: bool) -> Result<String> {
    let row = |fields: &Fields| -> Result<String> {
        let field = |f: &arrow::datatypes::FieldRef| {
            Ok(format!("{}:{}", f.name().to_lowercase(), athena_type(f.data_type(), is_json)?))
        };
        Ok(fields.iter().map(field).collect::<Result<Vec<_>>>()?.join(","))
    };
    Ok(match data_type {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 => "tinyint".to_owned(),
        DataType::Int16 => "smallint".to_owned(),
        DataType::Int32 => "int".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".to_owned(),
        DataType::Date32 if is_json => "string".to_owned(),
        DataType::Date32 => "date".to_owned(),
        // JSON has times as text, in a form that Athena's reader of JSON does not take for a timestamp.
        DataType::Timestamp(..) | DataType::Time64(_) | DataType::Time32(_) if is_json => "string".to_owned(),
        DataType::Timestamp(..) => "timestamp".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView if is_json => "string".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "binary".to_owned(),
        DataType::Struct(fields) => format!("struct<{}>", row(fields)?),
        DataType::List(item) | DataType::LargeList(item) => {
            format!("array<{}>", athena_type(item.data_type(), is_json)?)
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => format!(
                "map<{},{}>",
                athena_type(pair[0].data_type(), is_json)?,
                athena_type(pair[1].data_type(), is_json)?
            ),
            other => return Err(Error::config(format!("Athena has no type for {other}"))),
        },
        other => {
            return Err(Error::config(format!("Athena has no type for {other}"))
                .hint("write it as text, or leave it out of this table"));
        }
    })
}
