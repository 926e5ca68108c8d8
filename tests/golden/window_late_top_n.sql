-- shards: 1
-- The best of each minute, of the rows that were in time.
CREATE TABLE late (
  id INT, page STRING, duration INT, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/late', 'format' = 'json');

CREATE TABLE best (window_start TIMESTAMP(3), id INT, duration INT, place BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/best', 'format' = 'json');

INSERT INTO best
SELECT window_start, id, duration, place FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY duration DESC, id) AS place FROM TABLE(TUMBLE(TABLE late, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
) WHERE place <= 3;
