-- All errors of a file at once.
CREATE TABLE events (
  id INT, page STRNG, user_id STRING, amount DECIMAL(10, 2), data ROW<code STRING, n INT>, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE out_rows (id INT, page STRING) WITH ('connector' = 'print');

INSERT INTO out_rows SELECT id, pgae FROM events;

INSERT INTO nowhere SELECT id FROM events;

INSERT INTO out_rows SELECT id, page, user_id FROM events WHERE UPPR(page) = 'X';
