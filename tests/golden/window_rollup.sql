-- ROLLUP.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE sets (window_start TIMESTAMP(3), country STRING, page STRING, n BIGINT, s INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/sets', 'format' = 'json');

INSERT INTO sets
SELECT window_start, country, page, COUNT(*), SUM(duration)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '5' MINUTES))
GROUP BY window_start, window_end, ROLLUP (country, page);
