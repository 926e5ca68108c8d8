-- Queries in FROM, with and without a name.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE few (id INT, twice INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/few', 'format' = 'json');

INSERT INTO few SELECT id, twice FROM (SELECT id, duration * 2 AS twice FROM (SELECT * FROM clicks WHERE duration IS NOT NULL) AS c) WHERE twice > 1900;
