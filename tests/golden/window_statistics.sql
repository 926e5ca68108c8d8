-- Deviation and variance (compared with a tolerance).
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE stats (window_start TIMESTAMP(3), sp DOUBLE, ss DOUBLE, vp DOUBLE, vs DOUBLE, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/stats', 'format' = 'json');

INSERT INTO stats
SELECT window_start, STDDEV_POP(score), STDDEV_SAMP(score), VAR_POP(score), VAR_SAMP(score), COUNT(score)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
