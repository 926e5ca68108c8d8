-- The time now stands in for one that is missing.
CREATE TABLE events (
  id INT, page STRING, t TIMESTAMP_LTZ(3), ts AS COALESCE(t, CURRENT_TIMESTAMP),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE out_rows (id INT, page STRING) WITH ('connector' = 'print');

INSERT INTO out_rows SELECT id, page FROM events;
