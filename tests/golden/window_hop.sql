-- Hopping windows: slide first, then size.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE hops (window_start TIMESTAMP(3), window_end TIMESTAMP(3), country STRING, n BIGINT, total INT, users BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/hops', 'format' = 'json');

INSERT INTO hops
SELECT window_start, window_end, country, COUNT(*), SUM(duration), COUNT(DISTINCT user_id)
FROM TABLE(HOP(TABLE clicks, DESCRIPTOR(ts), INTERVAL '30' SECONDS, INTERVAL '2' MINUTES))
GROUP BY window_start, window_end, country;
