-- shards: 1
-- A late row is left out of the windows that have closed and counts in those that have not.
CREATE TABLE late (
  id INT, page STRING, duration INT, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/late', 'format' = 'json');

CREATE TABLE hops (window_start TIMESTAMP(3), window_end TIMESTAMP(3), n BIGINT, total INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/hops', 'format' = 'json');

INSERT INTO hops SELECT window_start, window_end, COUNT(*), SUM(duration) FROM TABLE(HOP(TABLE late, DESCRIPTOR(ts), INTERVAL '30' SECOND, INTERVAL '2' MINUTES)) GROUP BY window_start, window_end;
