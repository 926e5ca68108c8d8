-- The three most viewed pages of each two minutes; ties by name.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE top_pages (window_start TIMESTAMP(3), place BIGINT, page STRING, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/top_pages', 'format' = 'json');

INSERT INTO top_pages
SELECT window_start, place, page, n FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY n DESC, page ASC) AS place
  FROM (
    SELECT window_start, window_end, page, COUNT(*) AS n
    FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '2' MINUTES)) WHERE page IS NOT NULL GROUP BY window_start, window_end, page
  )
) WHERE place <= 3;
