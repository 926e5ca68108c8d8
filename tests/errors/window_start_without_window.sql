-- TUMBLE_START of a window that GROUP BY does not have.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), data ROW<code STRING, n INT>, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE minutes (window_start TIMESTAMP(3), n BIGINT) WITH ('connector' = 'print');

INSERT INTO minutes SELECT TUMBLE_START(ts, INTERVAL '2' MINUTE), COUNT(*) FROM events GROUP BY TUMBLE(ts, INTERVAL '1' MINUTE);
