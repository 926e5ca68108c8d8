-- WITH: several, one over another, and one used twice.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE joined (kind STRING, page STRING, n BIGINT, PRIMARY KEY (kind, page) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/joined', 'format' = 'json');

INSERT INTO joined
WITH long_ones AS (SELECT page, duration FROM clicks WHERE duration > 500),
     named AS (SELECT COALESCE(page, '(none)') AS page, duration FROM long_ones),
     very AS (SELECT * FROM named WHERE duration > 900)
SELECT 'long', page, COUNT(*) FROM named GROUP BY page
UNION ALL
SELECT 'very', page, COUNT(*) FROM very GROUP BY page;
