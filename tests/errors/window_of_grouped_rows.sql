-- A window over the times of groups.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE minutes (window_start TIMESTAMP(3), n BIGINT) WITH ('connector' = 'print');

INSERT INTO minutes
WITH times AS (
  SELECT ts AS at, COUNT(*) AS n FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY ts, window_start, window_end
)
SELECT window_start, SUM(n) FROM TABLE(TUMBLE(TABLE times, DESCRIPTOR(at), INTERVAL '1' HOUR)) GROUP BY window_start, window_end;
