-- Every event that could be decoded, typed, as Parquet: one folder a day, of the event's own day.
--
-- `tidemill backfill` computes the same queries again from these files. It knows the columns by the names that they
-- have in `events`, so keep them when you change this file.
CREATE TABLE archive (
  event_id    STRING,
  event_type  STRING,
  `timestamp` TIMESTAMP_LTZ(3),
  data ROW<
    user_id STRING, page STRING, referrer STRING, device STRING,
    product_id STRING, amount DECIMAL(38, 18), currency STRING,
    error_code STRING, message STRING
  >,
  arrived_at      TIMESTAMP_LTZ(3),
  shard_id        STRING,
  sequence_number STRING,
  split_watermark TIMESTAMP_LTZ(3),  -- so that a backfill drops exactly the rows that were late when they came
  raw_event       STRING,
  `year`  STRING,
  `month` STRING,
  `day`   STRING
) PARTITIONED BY (`year`, `month`, `day`) WITH (
  'connector' = 'filesystem',
  'path'      = 's3://${ARCHIVE_BUCKET:-my-analytics-archive}/events/',
  'format'    = 'parquet',
  'parquet.compression' = 'SNAPPY',
  -- A file is finished, and seen by others, when it is this large or this old.
  'sink.rolling-policy.file-size'         = '64MB',
  'sink.rolling-policy.rollover-interval' = '300 s'
);

INSERT INTO archive
SELECT
  event_id, event_type, `timestamp`, data,
  arrived_at, shard_id, sequence_number, split_watermark,
  -- The text as it came, so that fields which nobody has named yet are not lost: --param ARCHIVE_RAW=TRUE.
  CASE WHEN ${ARCHIVE_RAW:-FALSE} THEN raw_event END,
  DATE_FORMAT(`timestamp`, 'yyyy'), DATE_FORMAT(`timestamp`, 'MM'), DATE_FORMAT(`timestamp`, 'dd')
FROM events;
