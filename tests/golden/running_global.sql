-- No keys at all: one row, of constants and totals.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE total (id INT, n BIGINT, users BIGINT, s DOUBLE, PRIMARY KEY (id) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/total', 'format' = 'json');

INSERT INTO total SELECT 1, COUNT(*), COUNT(DISTINCT user_id), SUM(score) FROM clicks;
