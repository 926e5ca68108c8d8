-- Conditions that can be answered without their columns, each of which nothing else uses.
CREATE TABLE clicks (
  id INT NOT NULL, user_id STRING, page STRING, country STRING NOT NULL, duration INT, ts TIMESTAMP(3) NOT NULL,
  at_page AS COALESCE(page, 'nowhere')
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE kept (id INT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/kept', 'format' = 'json');
INSERT INTO kept SELECT id FROM clicks WHERE country IS NOT NULL;

CREATE TABLE kept_below (id INT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/kept_below', 'format' = 'json');
INSERT INTO kept_below SELECT id FROM (SELECT * FROM clicks WHERE at_page IS NOT NULL) AS c WHERE c.id < 50;

CREATE TABLE told (id INT, `text` STRING) WITH ('connector' = 'filesystem', 'path' = '${OUT}/told', 'format' = 'json');
INSERT INTO told SELECT id, CASE WHEN ts IS NULL THEN 'none' ELSE 'some' END FROM clicks;

CREATE TABLE users (user_id STRING, n BIGINT, PRIMARY KEY (user_id) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/users', 'format' = 'json');
INSERT INTO users
SELECT user_id, SUM(id) FILTER (WHERE COALESCE(duration, 0) IS NOT NULL) FROM clicks WHERE user_id IS NOT NULL GROUP BY user_id;
