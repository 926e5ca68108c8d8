-- Views, of views too, with names for their columns.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE VIEW named (number, seen_at, page_name) AS SELECT id, ts, page FROM clicks WHERE page IS NOT NULL;

CREATE VIEW minutes AS
SELECT window_start, window_end, page_name, COUNT(*) AS n
FROM TABLE(TUMBLE(TABLE named, DESCRIPTOR(seen_at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, page_name;

CREATE VIEW busy AS SELECT page_name, n, window_start FROM minutes WHERE n > 5;

CREATE TABLE busy_minutes (window_start TIMESTAMP(3), page STRING, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/busy_minutes', 'format' = 'json');

INSERT INTO busy_minutes SELECT window_start, page_name, n FROM busy;

CREATE TABLE busy_count (page STRING, n BIGINT, PRIMARY KEY (page) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/busy_count', 'format' = 'json');

INSERT INTO busy_count SELECT page_name, COUNT(*) FROM busy GROUP BY page_name;
