-- A sum beside COUNT(DISTINCT) that does not fit into 38 digits is NULL, too, whether it is too large for one value or for all.
CREATE TABLE huge (
  k STRING, amount DECIMAL(38, 0), ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/huge', 'format' = 'json');

CREATE TABLE minutes (window_start TIMESTAMP(3), k STRING, n BIGINT, amounts BIGINT, total DECIMAL(38, 0))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/minutes', 'format' = 'json');

INSERT INTO minutes
SELECT window_start, k, COUNT(*), COUNT(DISTINCT amount), SUM(amount)
FROM TABLE(TUMBLE(TABLE huge, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, k;

CREATE TABLE times (window_start TIMESTAMP(3), k STRING, times BIGINT, total DECIMAL(38, 0), small DECIMAL(38, 0), ones BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/times', 'format' = 'json');

INSERT INTO times
SELECT window_start, k, COUNT(DISTINCT ts), SUM(amount), SUM(CAST(SUBSTRING(CAST(amount AS STRING), 1, 9) AS DECIMAL(9, 0))), SUM(CAST(1 AS BIGINT))
FROM TABLE(TUMBLE(TABLE huge, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, k;
