-- The separator of LISTAGG is one for all rows.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), data ROW<code STRING, n INT>, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE pages (pages STRING) WITH ('connector' = 'print');

INSERT INTO pages SELECT LISTAGG(page, user_id) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
