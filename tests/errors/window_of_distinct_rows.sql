-- A window over distinct rows, which come in the epoch that has them first.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE minutes (window_start TIMESTAMP(3), n BIGINT) WITH ('connector' = 'print');

CREATE VIEW seen AS SELECT DISTINCT page, user_id, ts FROM events;

INSERT INTO minutes
SELECT window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE seen, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
