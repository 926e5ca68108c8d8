-- oracle: hand
-- COUNT(DISTINCT a, b): rows in which one of them is NULL do not count, and -0.0 is 0.0; alone, beside others, with a window and without.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

-- 0.0, and -0.0 for scores below 50.
CREATE VIEW zeros AS SELECT user_id, page, country, ts, (score - 50e0) * (score - score) AS zero FROM clicks;

CREATE TABLE windows (window_start TIMESTAMP(3), n BIGINT, visits BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/windows', 'format' = 'json');

INSERT INTO windows SELECT window_start, COUNT(*), COUNT(DISTINCT user_id, page)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '2' MINUTES)) GROUP BY window_start, window_end;

CREATE TABLE beside (window_start TIMESTAMP(3), visits BIGINT, users BIGINT, zeros BIGINT, german BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/beside', 'format' = 'json');

INSERT INTO beside SELECT window_start, COUNT(DISTINCT user_id, page), COUNT(DISTINCT user_id), COUNT(DISTINCT page, zero),
  COUNT(DISTINCT user_id, page) FILTER (WHERE country = 'DE')
FROM TABLE(TUMBLE(TABLE zeros, DESCRIPTOR(ts), INTERVAL '2' MINUTES)) GROUP BY window_start, window_end;

CREATE TABLE running (country STRING, visits BIGINT, zeros BIGINT, PRIMARY KEY (country) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/running', 'format' = 'json');

INSERT INTO running SELECT country, COUNT(DISTINCT user_id, page), COUNT(DISTINCT page, zero) FROM zeros GROUP BY country;
