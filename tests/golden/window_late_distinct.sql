-- shards: 1
-- Distinct and filtered counts leave out the same late rows as the others.
CREATE TABLE late (
  id INT, page STRING, duration INT, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/late', 'format' = 'json');

CREATE TABLE minutes (window_start TIMESTAMP(3), n BIGINT, pages BIGINT, long_ones BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/minutes', 'format' = 'json');

INSERT INTO minutes
SELECT window_start, COUNT(*), COUNT(DISTINCT page), COUNT(*) FILTER (WHERE duration > 50)
FROM TABLE(TUMBLE(TABLE late, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
