-- What comes in: the stream of events, and the reference table beside it.
--
-- Every other file of this folder reads from here. All files of a folder are one job: their order does not matter,
-- and a name that one file declares is known in all of them. To add a question of your own, add a file.

-- Days, hours and windows are those of UTC, whatever the machine's zone, so that a replay gives the same numbers.
SET 'table.local-time-zone' = 'UTC';

-- One JSON object a record: {"event_id": …, "event_type": …, "timestamp": …, "data": {…}}.
-- Fields that are not named here are skipped, fields that are missing are NULL, and a record that does not fit (an
-- amount that is no number, no readable timestamp) goes to the error output, with the reason.
CREATE TABLE events (
  event_id    STRING,
  event_type  STRING,            -- 'page_view', 'purchase', 'error', or what else may come
  `timestamp` TIMESTAMP_LTZ(3),  -- RFC 3339; an offset is taken to UTC
  data ROW<
    -- page_view
    user_id STRING, page STRING, referrer STRING, device STRING,
    -- purchase (and user_id). 18 decimals, so that no amount is rounded before the query rounds it, once, to cents.
    product_id STRING, amount DECIMAL(38, 18), currency STRING,
    -- error
    error_code STRING, message STRING
  >,

  -- What Kinesis knows of the record, and Tidemill of the shard. VIRTUAL: read, never written.
  arrived_at      TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
  shard_id        STRING METADATA FROM 'shard-id' VIRTUAL,
  sequence_number STRING METADATA FROM 'sequence-number' VIRTUAL,
  raw_event       STRING METADATA FROM 'raw' VIRTUAL,
  -- The shard's watermark just before this record. It says which rows were late, also when they are read again.
  split_watermark TIMESTAMP_LTZ(3) METADATA FROM 'watermark' VIRTUAL,

  -- Events may be up to 5 seconds out of order. A window closes when its end is 5 seconds in the past.
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH (
  'connector' = 'kinesis',
  'stream'    = '${EVENTS_STREAM:-analytics-events}',
  'format'    = 'json'
);

-- What we know of our products: a CSV file beside this one (a relative path starts at the folder of the .sql file).
-- It has no watermark: it is a reference table, kept in memory, and read again when the file changes.
CREATE TABLE products (
  product  STRING,
  category STRING,
  margin   DECIMAL(5, 4),  -- our share of the price: 0.35 is 35 %
  PRIMARY KEY (product) NOT ENFORCED
) WITH (
  'connector' = 'filesystem',
  'path'      = '${PRODUCTS_FILE:-products.csv}',
  'format'    = 'csv'
);
