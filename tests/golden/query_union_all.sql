-- UNION ALL: of one source, of two, duplicates kept; types widen.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE ordered (
  id INT, page STRING, duration INT, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/ordered', 'format' = 'json');

CREATE TABLE all_rows (source STRING, id BIGINT, v DOUBLE)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/all_rows', 'format' = 'json');

INSERT INTO all_rows
SELECT 'a', id, CAST(duration AS DOUBLE) FROM clicks WHERE id < 20
UNION ALL
SELECT 'a', id, score FROM clicks WHERE id < 10
UNION ALL
SELECT 'b', CAST(id AS BIGINT), 0.5 FROM ordered WHERE id < 5;
