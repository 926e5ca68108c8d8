-- A running count over a union of streams.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE ordered (
  id INT, page STRING, duration INT, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/ordered', 'format' = 'json');

CREATE TABLE counts (page STRING, n BIGINT, s INT, PRIMARY KEY (page) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/counts', 'format' = 'json');

INSERT INTO counts
SELECT COALESCE(page, '(none)'), COUNT(*), SUM(duration) FROM (SELECT page, duration FROM clicks UNION ALL SELECT page, duration FROM ordered) GROUP BY page;
