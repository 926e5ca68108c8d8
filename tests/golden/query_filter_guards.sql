-- A row that one part of a condition leaves out does not fail in another: zero by which nothing is divided, a text that is no number.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE divided (id INT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/divided', 'format' = 'json');
INSERT INTO divided SELECT id FROM clicks WHERE MOD(id, 3) <> 0 AND 10 / MOD(id, 3) > 5;

CREATE TABLE either (id INT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/either', 'format' = 'json');
INSERT INTO either SELECT id FROM clicks WHERE MOD(id, 3) = 0 OR 10 / MOD(id, 3) > 5;

CREATE TABLE cast_texts (id INT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/cast_texts', 'format' = 'json');
INSERT INTO cast_texts
SELECT id FROM clicks WHERE user_id <> 'u7' AND page <> '/c' AND CAST(REPLACE(REPLACE(user_id, 'u7', 'x'), 'u', '') AS INT) > 3;

-- Of a view's condition, too.
CREATE VIEW parted AS SELECT id, country, duration, ts FROM clicks WHERE MOD(id, 4) <> 0;

CREATE TABLE above_a_view (id INT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/above_a_view', 'format' = 'json');
INSERT INTO above_a_view SELECT id FROM parted WHERE 12 / MOD(id, 4) > 4;

-- What it has twice is not computed before.
CREATE TABLE between_two (id INT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/between_two', 'format' = 'json');
INSERT INTO between_two SELECT id FROM parted WHERE 12 / MOD(id, 4) BETWEEN 5 AND 12 AND country IS NOT NULL;

CREATE TABLE windows (window_start TIMESTAMP(3), country STRING, n BIGINT, parts BIGINT, total BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/windows', 'format' = 'json');
INSERT INTO windows
SELECT window_start, country, COUNT(*), COUNT(*) FILTER (WHERE MOD(id, 5) <> 0 AND 20 / MOD(id, 5) > 6),
  SUM(CAST(CASE WHEN MOD(id, 5) <> 0 AND 20 / MOD(id, 5) > 6 THEN duration ELSE 0 END AS BIGINT))
FROM TABLE(TUMBLE(TABLE parted, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) WHERE MOD(id, 3) <> 0 AND 10 / MOD(id, 3) > 1
GROUP BY window_start, window_end, country HAVING COUNT(*) <> 2 AND 7 / (COUNT(*) - 2) < 7;

CREATE TABLE counts (country STRING, n BIGINT, PRIMARY KEY (country) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/counts', 'format' = 'json');
INSERT INTO counts
SELECT country, COUNT(*) FILTER (WHERE MOD(id, 5) <> 0 AND 20 / MOD(id, 5) > 6) FROM clicks WHERE country IS NOT NULL AND (MOD(id, 3) = 0 OR 10 / MOD(id, 3) > 5) GROUP BY country;
