-- oracle: hand
-- Aggregates that must know an argument before any row: constants of every form, with a window and without. (Sketches are exact at the ends.)
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE windows (window_start TIMESTAMP(3), quarter DOUBLE, least DOUBLE, most DOUBLE, weighed DOUBLE)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/windows', 'format' = 'json');

INSERT INTO windows
SELECT window_start, PERCENTILE_CONT(score, 0.25), APPROX_PERCENTILE_CONT(score, 0.0, 50 + 50), APPROX_PERCENTILE_CONT(score, 1.0),
  APPROX_PERCENTILE_CONT_WITH_WEIGHT(score, id, CAST('1' AS DOUBLE))
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;

CREATE TABLE lists (window_start TIMESTAMP(3), third INT, pages STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/lists', 'format' = 'json');

INSERT INTO lists
SELECT window_start, NTH_VALUE(id, 1 + 2 ORDER BY id), LISTAGG(page, CAST('|' AS STRING) ORDER BY id)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;

CREATE TABLE running (country STRING, middle DOUBLE, most DOUBLE, PRIMARY KEY (country) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/running', 'format' = 'json');

INSERT INTO running
SELECT country, PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY score), APPROX_PERCENTILE_CONT(1.0) WITHIN GROUP (ORDER BY score)
FROM clicks GROUP BY country;

CREATE TABLE running_lists (country STRING, third INT, pages STRING, PRIMARY KEY (country) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/running_lists', 'format' = 'json');

INSERT INTO running_lists
SELECT country, NTH_VALUE(id, 1 + 2 ORDER BY id), LISTAGG(page, CAST('|' AS STRING) ORDER BY id) FROM clicks GROUP BY country;
