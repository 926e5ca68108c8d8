-- q4: Daily counters in one scan, as an update stream: views per page, revenue in cents and orders, errors per hour and code with
-- the greatest message. A key cannot be NULL, so -1 and '' stand for "none"; the checksum takes them for the same.
CREATE TABLE events (
  event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3),
  data ROW<user_id STRING, page STRING, referrer STRING, device STRING, product_id STRING, amount DECIMAL(10, 2), currency STRING,
           error_code STRING, message STRING>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE answer (
  event_type STRING, `day` DATE, `hour` BIGINT, page STRING, code STRING, n BIGINT, cents BIGINT, message STRING,
  PRIMARY KEY (event_type, `day`, `hour`, page, code) NOT ENFORCED
) WITH ('connector' = 'filesystem', 'path' = '${OUT}', 'format' = 'json');

INSERT INTO answer
SELECT event_type, CAST(`timestamp` AS DATE), CASE WHEN event_type = 'error' THEN EXTRACT(HOUR FROM `timestamp`) ELSE -1 END,
  COALESCE(data.page, ''), COALESCE(data.error_code, ''), COUNT(*), SUM(CAST(ROUND(data.amount * 100) AS BIGINT)), MAX(data.message)
FROM events
GROUP BY event_type, CAST(`timestamp` AS DATE), CASE WHEN event_type = 'error' THEN EXTRACT(HOUR FROM `timestamp`) ELSE -1 END,
  COALESCE(data.page, ''), COALESCE(data.error_code, '');
