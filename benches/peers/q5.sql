-- q5: Filter and project: purchases with amount > 500.
CREATE TABLE events (
  event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3),
  data ROW<user_id STRING, page STRING, referrer STRING, device STRING, product_id STRING, amount DECIMAL(10, 2), currency STRING,
           error_code STRING, message STRING>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE answer (event_id STRING, ts TIMESTAMP_LTZ(3), user_id STRING, product_id STRING, amount DECIMAL(10, 2))
WITH ('connector' = 'filesystem', 'path' = '${OUT}', 'format' = 'parquet');

INSERT INTO answer
SELECT event_id, `timestamp`, data.user_id, data.product_id, data.amount
FROM events
WHERE event_type = 'purchase' AND data.amount > 500;
