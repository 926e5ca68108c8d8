//! The embedded DynamoDB: updates, deletes, limits, exact values.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field};
use rusqlite::Connection;
use rusqlite::types::Value;
use tidemill::contracts::{ChangeKind, Changes, EpochNumber, TableSpec};

use crate::support::*;

fn keyed(name: &str, columns: &[(&str, DataType)], keys: &[&str]) -> TableSpec {
    let mut table = spec(name, schema(columns), &[("table-name", "analytics-metrics")]);
    table.primary_key = keys.iter().map(|k| (*k).to_owned()).collect();
    table
}

fn text(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn rows(dir: &std::path::Path, sql: &str) -> Vec<Vec<Value>> {
    let connection = Connection::open(dir.join("dynamodb.sqlite")).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let width = statement.column_count();
    let rows = statement.query_map([], |row| (0..width).map(|i| row.get(i)).collect()).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

fn t(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[tokio::test]
async fn an_insert_keeps_the_attributes_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let connectors = connectors(dir.path(), 1);
    let keys = [("k", DataType::Utf8View), ("s", DataType::Utf8View)];
    let views = keyed("m", &[keys[0].clone(), keys[1].clone(), ("view_count", DataType::Int64)], &["k", "s"]);
    let errors = keyed(
        "m",
        &[("error_count", DataType::Int64), keys[1].clone(), keys[0].clone(), ("last", DataType::Utf8)],
        &["k", "s"],
    );
    let mut a = connectors.sink(&views, "dynamodb").unwrap();
    let mut b = connectors.sink(&errors, "dynamodb").unwrap();
    let view = |v: &[&str]| Arc::new(StringViewArray::from(v.to_vec())) as ArrayRef;
    let first =
        batch(&views.schema, vec![view(&["x", "y"]), view(&["1", "1"]), Arc::new(Int64Array::from(vec![5, 6]))]);
    a.write(EpochNumber(1), appends(first)).await.unwrap();
    assert!(!dir.path().join("dynamodb.sqlite").exists(), "visible before the flush");
    a.flush(EpochNumber(1), 0).await.unwrap();
    let second = batch(
        &errors.schema,
        vec![Arc::new(Int64Array::from(vec![9])), view(&["1"]), view(&["x"]), text(&[Some("oh")])],
    );
    b.write(EpochNumber(1), appends(second)).await.unwrap();
    b.flush(EpochNumber(1), 0).await.unwrap();
    let all = "select k, s, view_count, error_count, last from \"analytics-metrics\" order by k";
    assert_eq!(
        rows(dir.path(), all),
        [
            vec![t("x"), t("1"), Value::Integer(5), Value::Integer(9), t("oh")],
            vec![t("y"), t("1"), Value::Integer(6), Value::Null, Value::Null],
        ]
    );
    // A NULL removes the attribute; the last write of a key in an epoch wins; a delete removes the INSERT's own attributes.
    let third = batch(
        &errors.schema,
        vec![
            Arc::new(Int64Array::from(vec![1, 10, 0])),
            view(&["1", "1", "1"]),
            view(&["x", "x", "y"]),
            text(&[Some("a"), None, None]),
        ],
    );
    let kinds = Some(vec![ChangeKind::Upsert, ChangeKind::Upsert, ChangeKind::Delete]);
    let outcome = b.write(EpochNumber(2), Changes { batch: third, kinds }).await.unwrap();
    assert_eq!((outcome.written, outcome.refused.len()), (3, 0));
    b.flush(EpochNumber(2), 0).await.unwrap();
    let others = [
        vec![t("x"), t("1"), Value::Integer(5), Value::Integer(10), Value::Null],
        vec![t("y"), t("1"), Value::Integer(6), Value::Null, Value::Null],
    ];
    assert_eq!(rows(dir.path(), all), others);
    // An item goes with its last attribute.
    let last = batch(&views.schema, vec![view(&["y"]), view(&["1"]), Arc::new(Int64Array::from(vec![6]))]);
    a.write(EpochNumber(3), Changes { batch: last, kinds: Some(vec![ChangeKind::Delete]) }).await.unwrap();
    a.flush(EpochNumber(3), 0).await.unwrap();
    assert_eq!(rows(dir.path(), all), others[..1]);
}

/// What a retraction leaves, by mode and option: what others have written in the item, or nothing.
#[tokio::test]
async fn a_retraction_takes_the_whole_item_only_where_it_would_on_aws() {
    for (options, stays) in [
        (&[][..], true),
        (&[("sink.write-mode", "add")][..], true),
        (&[("sink.delete", "tombstone")][..], true),
        (&[("sink.delete", "item")][..], false),
        (&[("sink.write-mode", "put")][..], false),
        (&[("sink.write-mode", "batch")][..], false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let connectors = connectors(dir.path(), 1);
        let number = |n: i64| Arc::new(Int64Array::from(vec![n])) as ArrayRef;
        let own = keyed("m", &[("k", DataType::Utf8), ("own", DataType::Int64)], &["k"]);
        let own = options.iter().fold(own, |table, (name, value)| table.with_option(name, *value));
        let other = keyed("m", &[("k", DataType::Utf8), ("other", DataType::Int64)], &["k"]);
        let mut sink = connectors.sink(&own, "dynamodb").unwrap();
        let own_row = || batch(&own.schema, vec![text(&[Some("a")]), number(1)]);
        write_all(sink.as_mut(), vec![appends(own_row())]).await;
        // Its column comes later.
        let other_row = batch(&other.schema, vec![text(&[Some("a")]), number(2)]);
        write_all(connectors.sink(&other, "dynamodb").unwrap().as_mut(), vec![appends(other_row)]).await;
        let gone = Changes { batch: own_row(), kinds: Some(vec![ChangeKind::Delete]) };
        write_all(sink.as_mut(), vec![gone]).await;
        let left = rows(dir.path(), "select own, other from \"analytics-metrics\"");
        let expected = if stays { vec![vec![Value::Null, Value::Integer(2)]] } else { vec![] };
        assert_eq!(left, expected, "{options:?}");
    }
}

#[tokio::test]
async fn values_are_exact() {
    let dir = tempfile::tempdir().unwrap();
    let item = Arc::new(Field::new("element", DataType::Int32, true));
    let columns = [
        ("id", DataType::Int64),
        ("whole", DataType::Decimal128(12, 2)),
        ("part", DataType::Decimal128(38, 18)),
        ("big", DataType::Decimal128(38, 0)),
        ("d", DataType::Float64),
        ("b", DataType::Boolean),
        ("t", millis()),
        ("day", DataType::Date32),
        ("list", DataType::List(item)),
        ("bytes", DataType::Binary),
        ("u", DataType::UInt64),
    ];
    let table = keyed("m", &columns, &["id"]);
    let mut lists =
        ListBuilder::new(Int32Builder::new()).with_field(Arc::new(Field::new("element", DataType::Int32, true)));
    lists.append_value([Some(1), None]);
    let row = batch(
        &table.schema,
        vec![
            Arc::new(Int64Array::from(vec![-7])),
            Arc::new(Decimal128Array::from(vec![199_900]).with_precision_and_scale(12, 2).unwrap()),
            Arc::new(
                Decimal128Array::from(vec![12_500_000_000_000_000_000i128]).with_precision_and_scale(38, 18).unwrap(),
            ),
            Arc::new(
                Decimal128Array::from(vec![12345678901234567890123456789012345678i128])
                    .with_precision_and_scale(38, 0)
                    .unwrap(),
            ),
            Arc::new(Float64Array::from(vec![0.1])),
            Arc::new(BooleanArray::from(vec![true])),
            Arc::new(TimestampMillisecondArray::from(vec![1_770_890_400_500]).with_timezone("UTC")),
            Arc::new(Date32Array::from(vec![0])),
            Arc::new(lists.finish()),
            Arc::new(BinaryArray::from(vec![&b"\x00\xff"[..]])),
            Arc::new(UInt64Array::from(vec![u64::MAX])),
        ],
    );
    write_all(connectors(dir.path(), 1).sink(&table, "dynamodb").unwrap().as_mut(), vec![appends(row)]).await;
    let sql = "select id, whole, part, big, d, b, t, day, list, bytes, u from \"analytics-metrics\"";
    assert_eq!(
        rows(dir.path(), sql),
        [vec![
            Value::Integer(-7),
            Value::Integer(1999),
            t("12.5"),
            t("12345678901234567890123456789012345678"),
            t("0.1"),
            Value::Integer(1),
            t("2026-02-12T10:00:00.500Z"),
            t("1970-01-01"),
            t("[1,null]"),
            Value::Blob(vec![0, 255]),
            t("18446744073709551615"),
        ]]
    );
}

#[tokio::test]
async fn what_dynamodb_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let table = keyed(
        "m",
        &[("k", DataType::Utf8), ("s", DataType::Utf8), ("v", DataType::Utf8), ("n", DataType::Float64)],
        &["k", "s"],
    );
    let (hash, range, item) = ("é".repeat(1_024), "r".repeat(1_025), "i".repeat(410_000));
    let keys = [Some("k"), Some(&hash), Some(&hash), Some(""), None, Some("k"), Some("k"), Some("k")];
    let mut keys: Vec<Option<String>> = keys.iter().map(|k| k.map(str::to_owned)).collect();
    keys[2].as_mut().unwrap().push('x');
    let keys: Vec<Option<&str>> = keys.iter().map(Option::as_deref).collect();
    let row = batch(
        &table.schema,
        vec![
            text(&keys),
            text(&[Some("1"), Some("1"), Some("1"), Some("1"), Some("1"), Some(&range), Some("2"), Some("3")]),
            text(&[Some(""), None, None, None, None, None, Some(&item), None]),
            Arc::new(Float64Array::from(vec![None, None, None, None, None, None, None, Some(f64::NAN)])),
        ],
    );
    let mut sink = connectors(dir.path(), 1).sink(&table, "dynamodb").unwrap();
    let outcome = sink.write(EpochNumber(1), appends(row)).await.unwrap();
    let refused: Vec<(usize, &str)> = outcome.refused.iter().map(|r| (r.row, r.reason.as_str())).collect();
    assert_eq!(
        refused,
        [
            (2, "key_too_long"),
            (3, "empty_key"),
            (4, "null_key"),
            (5, "key_too_long"),
            (6, "item_too_large"),
            (7, "not_a_number"),
        ]
    );
    assert_eq!(outcome.written, 2);
    sink.flush(EpochNumber(1), 0).await.unwrap();
    assert_eq!(rows(dir.path(), "select count(*) from \"analytics-metrics\""), [vec![Value::Integer(2)]]);
}

#[tokio::test]
async fn a_table_keeps_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let connectors = connectors(dir.path(), 1);
    let first = keyed("m", &[("k", DataType::Utf8)], &["k"]);
    let mut sink = connectors.sink(&first, "dynamodb").unwrap();
    write_all(sink.as_mut(), vec![appends(batch(&first.schema, vec![text(&[Some("a")])]))]).await;
    let other = keyed("m", &[("k", DataType::Utf8), ("s", DataType::Utf8)], &["k", "s"]);
    let error = connectors.sink(&other, "dynamodb").err().unwrap().to_string();
    assert!(error.contains("exists with the key (k)"), "{error}");
    let error = connectors.sink(&keyed("m", &[("k", DataType::Utf8)], &[]), "dynamodb").err().unwrap().to_string();
    assert!(error.contains("hash key"), "{error}");
}
