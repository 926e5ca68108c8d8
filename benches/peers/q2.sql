-- q2: 10-second tumbling window: sum(amount) and count per user (purchases).
CREATE TABLE events (
  event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3),
  data ROW<user_id STRING, page STRING, referrer STRING, device STRING, product_id STRING, amount DECIMAL(10, 2), currency STRING,
           error_code STRING, message STRING>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE answer (w TIMESTAMP(3), user_id STRING, amount DECIMAL(38, 2), orders BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}', 'format' = 'parquet');

INSERT INTO answer
SELECT window_start, data.user_id, SUM(data.amount), COUNT(*)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '10' SECOND))
WHERE event_type = 'purchase'
GROUP BY window_start, window_end, data.user_id;
