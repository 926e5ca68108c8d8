-- Windows lie on UTC's grid only.
SET 'table.local-time-zone' = 'Europe/Berlin';

CREATE TABLE events (
  id INT, page STRING, ts TIMESTAMP_LTZ(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE days (window_start TIMESTAMP(3), n BIGINT) WITH ('connector' = 'print');

INSERT INTO days
SELECT window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' DAY)) GROUP BY window_start, window_end;
