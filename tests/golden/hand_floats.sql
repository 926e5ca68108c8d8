-- oracle: hand
-- A FLOAT is summed as a DOUBLE, beside COUNT(DISTINCT) as without it; DISTINCT takes -0.0 for 0.0, as GROUP BY does, with a window and without.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE sums (window_start TIMESTAMP(3), users BIGINT, total DOUBLE)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/sums', 'format' = 'json');

INSERT INTO sums
SELECT window_start, COUNT(DISTINCT user_id), SUM(CAST(IF(MOD(id, 2) = 0, 1, -1) * score * 1234.567e0 AS FLOAT))
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;

-- 0.0, and -0.0 for scores below 50.
CREATE VIEW zeros AS SELECT country, page, ts, (score - 50e0) * (score - score) AS zero FROM clicks WHERE score IS NOT NULL;

CREATE TABLE running (country STRING, doubles BIGINT, floats BIGINT, pages BIGINT, PRIMARY KEY (country) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/running', 'format' = 'json');

INSERT INTO running
SELECT country, COUNT(DISTINCT zero), COUNT(DISTINCT CAST(zero AS FLOAT)), COUNT(DISTINCT page) FROM zeros GROUP BY country;

CREATE TABLE running_one (country STRING, zeros BIGINT, PRIMARY KEY (country) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/running_one', 'format' = 'json');

INSERT INTO running_one SELECT country, COUNT(DISTINCT zero) FROM zeros GROUP BY country;

CREATE TABLE windows (window_start TIMESTAMP(3), zeros BIGINT, pages BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/windows', 'format' = 'json');

INSERT INTO windows
SELECT window_start, COUNT(DISTINCT zero), COUNT(DISTINCT page)
FROM TABLE(TUMBLE(TABLE zeros, DESCRIPTOR(ts), INTERVAL '10' MINUTES)) GROUP BY window_start, window_end;

CREATE TABLE ordered (window_start TIMESTAMP(3), zeros ARRAY<DOUBLE>)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/ordered', 'format' = 'json');

INSERT INTO ordered
SELECT window_start, ARRAY_AGG(DISTINCT zero ORDER BY zero)
FROM TABLE(TUMBLE(TABLE zeros, DESCRIPTOR(ts), INTERVAL '10' MINUTES)) GROUP BY window_start, window_end;
