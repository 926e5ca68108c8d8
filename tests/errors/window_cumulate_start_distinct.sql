-- The same in a DISTINCT, under another name.
CREATE TABLE events (
  id INT, page STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE pages (since TIMESTAMP(3), page STRING) WITH ('connector' = 'print');

INSERT INTO pages
SELECT DISTINCT since, page FROM (
  SELECT window_start AS since, window_end, page, COUNT(*) AS c
  FROM TABLE(CUMULATE(TABLE events, DESCRIPTOR(ts), INTERVAL '10' MINUTES, INTERVAL '1' HOUR)) GROUP BY window_start, window_end, page
);
