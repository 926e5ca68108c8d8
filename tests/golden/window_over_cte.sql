-- The same over a WITH query, and over a query in its place.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE a (window_start TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/a', 'format' = 'json');

INSERT INTO a WITH long_ones AS (SELECT id, ts FROM clicks WHERE duration > 500)
SELECT window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE long_ones, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;

CREATE TABLE b (window_start TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/b', 'format' = 'json');

INSERT INTO b SELECT window_start, COUNT(*)
FROM TABLE(TUMBLE((SELECT id, ts FROM clicks WHERE duration > 500), DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;

CREATE TABLE c (window_start TIMESTAMP(3), pages BIGINT, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/c', 'format' = 'json');

INSERT INTO c SELECT window_start, COUNT(*), SUM(n) FROM (
  SELECT window_start, window_end, page, COUNT(*) AS n FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, page
) GROUP BY window_start, window_end;
