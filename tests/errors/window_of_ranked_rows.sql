-- A window of a minute over the first rows of each hour, which come when the hour has closed.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE minutes (window_start TIMESTAMP(3), n BIGINT) WITH ('connector' = 'print');

CREATE VIEW firsts AS
SELECT page, ts FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end, user_id ORDER BY ts) AS place
  FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' HOUR))
) WHERE place = 1;

INSERT INTO minutes
SELECT window_start, COUNT(*) FROM TABLE(HOP(TABLE firsts, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '2' HOURS)) GROUP BY window_start, window_end;
