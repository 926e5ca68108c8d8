-- CUBE, over hopping windows.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE VIEW some_clicks AS SELECT country, duration > 500 AS is_long, ts FROM clicks;

CREATE TABLE sets (window_start TIMESTAMP(3), country STRING, is_long BOOLEAN, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/sets', 'format' = 'json');

INSERT INTO sets
SELECT window_start, country, is_long, COUNT(*)
FROM TABLE(HOP(TABLE some_clicks, DESCRIPTOR(ts), INTERVAL '2' MINUTES, INTERVAL '4' MINUTES))
GROUP BY window_start, window_end, CUBE (country, is_long);
