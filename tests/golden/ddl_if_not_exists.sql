-- Said twice, made once; TEMPORARY makes no difference here.

CREATE TABLE IF NOT EXISTS clicks (
  id INT COMMENT 'the number of the click', page STRING, ts TIMESTAMP(3)
) COMMENT 'page views' WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TEMPORARY VIEW IF NOT EXISTS some_clicks AS SELECT id, page FROM clicks WHERE id < 20;

CREATE TABLE few (id INT, page STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/few', 'format' = 'json');

INSERT INTO few SELECT * FROM some_clicks;
