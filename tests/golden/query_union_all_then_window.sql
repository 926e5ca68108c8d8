-- A window over a union of two streams.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE ordered (
  id INT, page STRING, duration INT, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/ordered', 'format' = 'json');

CREATE VIEW both_streams AS
SELECT page, duration, ts FROM clicks WHERE page IN ('/', '/a', '/b') UNION ALL SELECT page, duration, ts FROM ordered;

CREATE TABLE minutes (window_start TIMESTAMP(3), page STRING, n BIGINT, total INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/minutes', 'format' = 'json');

INSERT INTO minutes
SELECT window_start, page, COUNT(*), SUM(duration)
FROM TABLE(TUMBLE(TABLE both_streams, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, page;
