-- GROUP BY without a window: an update stream into a keyed sink; what is compared is the last state.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE pages (page STRING, n BIGINT, total INT, lo INT, hi INT, average INT, latest TIMESTAMP(3), PRIMARY KEY (page) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/pages', 'format' = 'json');

INSERT INTO pages
SELECT COALESCE(page, '(none)'), COUNT(*), SUM(duration), MIN(duration), MAX(duration), AVG(duration), MAX(CAST(ts AS TIMESTAMP(3))) FROM clicks GROUP BY page;

CREATE TABLE pairs (country STRING, page STRING, n BIGINT, PRIMARY KEY (country, page) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/pairs', 'format' = 'json');

INSERT INTO pairs SELECT country, page, COUNT(*) FROM clicks WHERE duration IS NOT NULL AND page IS NOT NULL GROUP BY page, country;
