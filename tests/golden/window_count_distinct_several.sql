-- Several DISTINCT aggregates with different arguments, with and without FILTER; SUM(DISTINCT) too.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE counts (window_start TIMESTAMP(3), country STRING, users BIGINT, pages BIGINT, long_users BIGINT, n BIGINT, s INT, long_n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/counts', 'format' = 'json');

INSERT INTO counts
SELECT window_start, country, COUNT(DISTINCT user_id), COUNT(DISTINCT page), COUNT(DISTINCT user_id) FILTER (WHERE duration > 500),
  COUNT(*), SUM(DISTINCT duration), COUNT(*) FILTER (WHERE duration > 500)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '2' MINUTES)) GROUP BY window_start, window_end, country;
