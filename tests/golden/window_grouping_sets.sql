-- Several groupings in one query; GROUPING tells a total from a NULL.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE sets (window_start TIMESTAMP(3), page STRING, country STRING, n BIGINT, is_total BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/sets', 'format' = 'json');

INSERT INTO sets
SELECT window_start, page, country, COUNT(*), GROUPING(page)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '5' MINUTES))
GROUP BY window_start, window_end, GROUPING SETS ((page), (country), ());
