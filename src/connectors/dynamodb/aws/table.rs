//! The table as AWS has it, compared with what the SQL says.

use arrow::datatypes::DataType;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{KeyType, ScalarAttributeType, TableDescription, TableStatus};

use crate::connectors::aws::{Call, Requests, failure};
use crate::contracts::{Error, Result, TableSpec};

/// Checks that the table exists, takes writes, and has the key of the SQL.
pub(super) async fn check(
    client: &Client,
    requests: &Requests,
    table: &str,
    spec: &TableSpec,
    primary_key: &[String],
) -> Result<()> {
    let call = Call { service: "dynamodb", operation: "DescribeTable", resource: table };
    let describe = || async { client.describe_table().table_name(table).send().await.map_err(|e| failure(call, &e)) };
    let found = requests.once(describe).await?.table;
    let found = found.ok_or_else(|| Error::unavailable(format!("DynamoDB did not describe table '{table}'")))?;
    compare(table, spec, primary_key, &found)
}

fn compare(table: &str, spec: &TableSpec, primary_key: &[String], found: &TableDescription) -> Result<()> {
    if let Some(status) = found.table_status()
        && !matches!(status, TableStatus::Active | TableStatus::Updating)
    {
        return Err(Error::config(format!("DynamoDB table '{table}' is {status}, not ACTIVE"))
            .hint("wait until it is active, and start again"));
    }
    let of_kind = |kind: KeyType| found.key_schema().iter().find(|k| *k.key_type() == kind);
    let keys: Vec<&str> =
        [of_kind(KeyType::Hash), of_kind(KeyType::Range)].into_iter().flatten().map(|k| k.attribute_name()).collect();
    if keys != primary_key {
        return Err(Error::config(format!(
            "DynamoDB table '{table}' has the key ({}), the SQL has ({})",
            keys.join(", "),
            primary_key.join(", ")
        ))
        .hint(format!(
            "write PRIMARY KEY ({}) NOT ENFORCED in table '{}': the hash key first; a table keeps its key",
            keys.join(", "),
            spec.name
        )));
    }
    for key in &keys {
        let field =
            spec.schema.field_with_name(key).map_err(|e| Error::internal("a key without its column").caused_by(e))?;
        let definition = found.attribute_definitions().iter().find(|d| d.attribute_name() == *key);
        let (Some(definition), Some(expected)) = (definition, key_type(field.data_type())) else {
            return Err(Error::config(format!("column '{key}' of type {} cannot be a key", field.data_type()))
                .hint("a key in DynamoDB is a string, a number or binary"));
        };
        if *definition.attribute_type() != expected {
            return Err(Error::config(format!(
                "key '{key}' of DynamoDB table '{table}' is of type {}, column '{key}' of '{}' would be {expected}",
                definition.attribute_type(),
                spec.name
            ))
            .hint("S is a string or a time, N a number, B binary: CAST it in the INSERT, and change the column"));
        }
    }
    Ok(())
}

/// Type of a key attribute that holds values of this type.
fn key_type(column: &DataType) -> Option<ScalarAttributeType> {
    match column {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(ScalarAttributeType::S),
        DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) => {
            Some(ScalarAttributeType::S)
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            Some(ScalarAttributeType::B)
        }
        DataType::Dictionary(_, value) => key_type(value),
        other if other.is_numeric() => Some(ScalarAttributeType::N),
        _ => None,
    }
}
