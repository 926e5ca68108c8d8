-- Expressions over keys, bounds and aggregates; keys that are expressions themselves.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE rows_out (label STRING, bucket STRING, per_second DOUBLE, share INT, long_ones BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/rows_out', 'format' = 'json');

INSERT INTO rows_out
SELECT DATE_FORMAT(window_start, 'HH:mm') || '-' || DATE_FORMAT(window_end, 'HH:mm'),
  CASE WHEN duration > 500 THEN 'long' ELSE 'short' END,
  COUNT(*) / 60.0e0,
  CAST(100 * SUM(CASE WHEN page = '/' THEN 1 ELSE 0 END) / COUNT(*) AS INT),
  SUM(CASE WHEN duration > 900 THEN 1 ELSE 0 END) + COUNT(*) * 0
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, CASE WHEN duration > 500 THEN 'long' ELSE 'short' END;
