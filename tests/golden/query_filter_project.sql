-- Filters and projections of every kind; a NULL is neither true nor false.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE a (id INT, page STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/a', 'format' = 'json');

INSERT INTO a SELECT id, page FROM clicks WHERE page <> '/' AND duration >= 500;

CREATE TABLE b (id INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/b', 'format' = 'json');

INSERT INTO b SELECT id FROM clicks WHERE NOT (page = '/a' OR duration < 900);

CREATE TABLE c (id INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/c', 'format' = 'json');

INSERT INTO c SELECT id FROM clicks WHERE page IN ('/a', '/b') AND country NOT IN ('DE', 'FR') AND duration BETWEEN 100 AND 800;

CREATE TABLE d (id INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/d', 'format' = 'json');

INSERT INTO d SELECT id FROM clicks WHERE page IS NULL OR user_id IS NULL;

CREATE TABLE e (id INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/e', 'format' = 'json');

INSERT INTO e SELECT id FROM clicks WHERE page IS DISTINCT FROM '/a' AND user_id IS NOT DISTINCT FROM 'u1';

CREATE TABLE f (id INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/f', 'format' = 'json');

INSERT INTO f SELECT id FROM clicks WHERE (duration > 500) IS NOT TRUE AND id < 60;

CREATE TABLE g (id INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/g', 'format' = 'json');

INSERT INTO g SELECT id FROM clicks WHERE page NOT IN ('/a', CAST(NULL AS STRING));

CREATE TABLE h (id INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/h', 'format' = 'json');

INSERT INTO h SELECT id FROM clicks WHERE page LIKE '/_' AND user_id LIKE 'u1%' AND country NOT LIKE '%S';
