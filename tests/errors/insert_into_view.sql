-- A view takes no rows.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), data ROW<code STRING, n INT>, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE out_rows (id INT, page STRING) WITH ('connector' = 'print');

CREATE VIEW a_few AS SELECT id, page FROM events WHERE id > 3;

INSERT INTO a_few SELECT id, page FROM events;
