-- Tumbling windows, by key; the window's columns beside the aggregates.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE minutes (window_start TIMESTAMP(3), window_end TIMESTAMP(3), window_time TIMESTAMP(3), page STRING, n BIGINT, total INT, best DOUBLE)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/minutes', 'format' = 'json');

INSERT INTO minutes
SELECT window_start, window_end, CAST(window_time AS TIMESTAMP(3)), page, COUNT(*), SUM(duration), MAX(score)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, window_time, page;
