-- INSERT names its columns, in an order of its own; the others are NULL.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE wide (a STRING, b INT, c DOUBLE, d STRING, id INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/wide', 'format' = 'json');

INSERT INTO wide (id, a) SELECT id, page FROM clicks WHERE id <= 5;

INSERT INTO wide (`d`, b, id) SELECT country, duration, id FROM clicks WHERE id BETWEEN 6 AND 10;

INSERT INTO wide SELECT 'x', 1, 0.5, CAST(NULL AS STRING), id FROM clicks WHERE id = 11;
