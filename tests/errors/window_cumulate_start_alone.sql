-- Windows of CUMULATE that have one start close one after the other, so there would be a row for each.
CREATE TABLE events (
  id INT, page STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE sums (window_start TIMESTAMP(3), n BIGINT) WITH ('connector' = 'print');

INSERT INTO sums
SELECT window_start, SUM(c) FROM (
  SELECT window_start, window_end, page, COUNT(*) AS c
  FROM TABLE(CUMULATE(TABLE events, DESCRIPTOR(ts), INTERVAL '10' MINUTES, INTERVAL '1' HOUR)) GROUP BY window_start, window_end, page
) GROUP BY window_start;
