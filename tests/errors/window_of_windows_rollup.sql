-- The total of a ROLLUP over windows that have closed has no end either.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), data ROW<code STRING, n INT>, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE counts (w TIMESTAMP(3), c BIGINT) WITH ('connector' = 'print');

INSERT INTO counts SELECT window_start, SUM(c) FROM (
  SELECT window_start, window_end, page, COUNT(*) AS c
  FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
  GROUP BY window_start, window_end, page)
GROUP BY ROLLUP (window_start, window_end);
