-- Java has a form that the regular expressions here have not.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), data ROW<code STRING, n INT>, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE out_rows (id INT, page STRING) WITH ('connector' = 'print');

INSERT INTO out_rows SELECT id, REGEXP_EXTRACT(page, '(?>a+)b') FROM events;
