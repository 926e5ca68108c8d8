-- DISTINCT aggregates without a window, alone and beside others; SELECT DISTINCT.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE users (page STRING, users BIGINT, PRIMARY KEY (page) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/users', 'format' = 'json');

INSERT INTO users SELECT COALESCE(page, '(none)'), COUNT(DISTINCT user_id) FROM clicks GROUP BY COALESCE(page, '(none)');

CREATE TABLE more (country STRING, n BIGINT, users BIGINT, pages BIGINT, s INT, PRIMARY KEY (country) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/more', 'format' = 'json');

INSERT INTO more SELECT country, COUNT(*), COUNT(DISTINCT user_id), COUNT(DISTINCT page) FILTER (WHERE duration > 100), SUM(DISTINCT duration) FROM clicks GROUP BY country;

CREATE TABLE pairs (page STRING, country STRING, PRIMARY KEY (page, country) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/pairs', 'format' = 'json');

INSERT INTO pairs SELECT DISTINCT COALESCE(page, '(none)'), country FROM clicks;
