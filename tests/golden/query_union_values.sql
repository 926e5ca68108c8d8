-- UNION ALL of constants alone: each row once, as of VALUES; below a GROUP BY and a UNION, too. A stream beside them goes on.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE fixed (id BIGINT, name STRING) WITH ('connector' = 'filesystem', 'path' = '${OUT}/fixed', 'format' = 'json');

INSERT INTO fixed
SELECT 1, 'a'
UNION ALL
SELECT 2, 'b'
UNION ALL
SELECT id, name FROM (VALUES (3, 'c'), (4, CAST(NULL AS STRING)), (1, 'a')) AS v (id, name);

CREATE TABLE counted (name STRING, n BIGINT, PRIMARY KEY (name) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/counted', 'format' = 'json');

INSERT INTO counted
SELECT name, COUNT(*) FROM (SELECT 'a' AS name UNION ALL SELECT 'b' UNION ALL SELECT 'a') GROUP BY name;

CREATE TABLE different (name STRING, PRIMARY KEY (name) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/different', 'format' = 'json');

INSERT INTO different SELECT 'a' UNION SELECT 'b' UNION SELECT 'a';

CREATE TABLE first_ids (id INT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/first_ids', 'format' = 'json');

INSERT INTO first_ids SELECT id FROM clicks WHERE id < 9;
