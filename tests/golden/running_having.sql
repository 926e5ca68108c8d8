-- HAVING on a running aggregate: a key comes when the condition holds and goes when it holds no longer.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE few (user_id STRING, n BIGINT, PRIMARY KEY (user_id) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/few', 'format' = 'json');

INSERT INTO few SELECT user_id, COUNT(*) FROM clicks WHERE user_id IS NOT NULL GROUP BY user_id HAVING COUNT(*) BETWEEN 3 AND 13;

CREATE TABLE average_long (page STRING, a INT, PRIMARY KEY (page) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/average_long', 'format' = 'json');

INSERT INTO average_long SELECT page, AVG(duration) FROM clicks GROUP BY page HAVING AVG(duration) > 500 AND page IS NOT NULL;

CREATE TABLE none_left (country STRING, n BIGINT, PRIMARY KEY (country) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/none_left', 'format' = 'json');

INSERT INTO none_left SELECT country, COUNT(*) FROM clicks GROUP BY country HAVING COUNT(*) < 50;
