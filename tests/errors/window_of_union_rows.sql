-- A window over a UNION that leaves out what is there twice.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE minutes (window_start TIMESTAMP(3), n BIGINT) WITH ('connector' = 'print');

INSERT INTO minutes
SELECT TUMBLE_START(at, INTERVAL '1' MINUTE), COUNT(*)
FROM (SELECT page, ts AS at FROM events WHERE id > 3 UNION SELECT user_id, ts FROM events) GROUP BY TUMBLE(at, INTERVAL '1' MINUTE);
