-- A key that is named twice is one key.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE counts (country STRING, again STRING, n BIGINT, PRIMARY KEY (country) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/counts', 'format' = 'json');

INSERT INTO counts
SELECT COALESCE(country, 'none'), COALESCE(country, 'none'), COUNT(*) FROM clicks GROUP BY COALESCE(country, 'none'), COALESCE(country, 'none');

CREATE TABLE windows (window_start TIMESTAMP(3), country STRING, n BIGINT, users BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/windows', 'format' = 'json');

INSERT INTO windows
SELECT window_start, country, COUNT(*), COUNT(DISTINCT user_id)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, country, window_end, country;

CREATE TABLE nested (window_start TIMESTAMP(3), countries BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/nested', 'format' = 'json');

INSERT INTO nested
SELECT window_start, COUNT(*) FROM (
  SELECT window_start, window_end, country, COUNT(*) AS n
  FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '2' MINUTES)) GROUP BY window_start, window_end, country, country)
GROUP BY window_start, window_end, window_start;
