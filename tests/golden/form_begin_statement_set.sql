-- The same in the older form.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE germans (id INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/germans', 'format' = 'json');

CREATE TABLE per_page (page STRING, n BIGINT, PRIMARY KEY (page) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/per_page', 'format' = 'json');

BEGIN STATEMENT SET;

INSERT INTO germans SELECT id FROM clicks WHERE country = 'DE';

INSERT INTO per_page SELECT page, COUNT(*) FROM clicks WHERE page IS NOT NULL GROUP BY page;
END;
