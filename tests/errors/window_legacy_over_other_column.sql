-- The older window form over a column that is no time attribute.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), data ROW<code STRING, n INT>, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE minutes (window_start TIMESTAMP(3), n BIGINT) WITH ('connector' = 'print');

INSERT INTO minutes SELECT TUMBLE_START(user_id, INTERVAL '1' MINUTE), COUNT(*) FROM events GROUP BY TUMBLE(user_id, INTERVAL '1' MINUTE);
