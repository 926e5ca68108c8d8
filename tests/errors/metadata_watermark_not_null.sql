-- The watermark before a record is NULL for the first ones of each split.
CREATE TABLE events (
  id INT, page STRING, ts TIMESTAMP(3),
  known TIMESTAMP_LTZ(3) NOT NULL METADATA FROM 'watermark' VIRTUAL,
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE out_rows (id INT, page STRING) WITH ('connector' = 'print');

INSERT INTO out_rows SELECT id, page FROM events;
