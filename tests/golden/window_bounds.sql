-- Rows at the very edges of a window: the start belongs to it, the end does not.
CREATE TABLE ordered (
  id INT, page STRING, duration INT, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/ordered', 'format' = 'json');

CREATE TABLE edges (window_start TIMESTAMP(3), n BIGINT, lowest TIMESTAMP(3), highest TIMESTAMP(3))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/edges', 'format' = 'json');

INSERT INTO edges SELECT window_start, COUNT(*), MIN(CAST(ts AS TIMESTAMP(3))), MAX(CAST(ts AS TIMESTAMP(3)))
FROM TABLE(TUMBLE(TABLE ordered, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
