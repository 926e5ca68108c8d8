-- The columns of a key cannot be NULL: with this setting such rows are dropped, and the job goes on.
SET 'table.exec.sink.not-null-enforcer' = 'DROP';

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE counted (page STRING, n BIGINT, PRIMARY KEY (page) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/counted', 'format' = 'json');

INSERT INTO counted SELECT page, COUNT(*) FROM clicks GROUP BY page;

CREATE TABLE strict (id INT, page STRING NOT NULL)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/strict', 'format' = 'json');

INSERT INTO strict SELECT id, page FROM clicks WHERE id < 60;
