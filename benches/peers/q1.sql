-- q1: 1-minute tumbling window: count and distinct users per page (page views).
CREATE TABLE events (
  event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3),
  data ROW<user_id STRING, page STRING, referrer STRING, device STRING, product_id STRING, amount DECIMAL(10, 2), currency STRING,
           error_code STRING, message STRING>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE answer (w TIMESTAMP(3), page STRING, n BIGINT, visitors BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}', 'format' = 'parquet');

INSERT INTO answer
SELECT window_start, data.page, COUNT(*), COUNT(DISTINCT data.user_id)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '1' MINUTE))
WHERE event_type = 'page_view'
GROUP BY window_start, window_end, data.page;
