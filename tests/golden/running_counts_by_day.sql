-- The key holds the day; items of several kinds in one table, each written with its own columns.

CREATE TABLE events (
  event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3),
  data ROW<user_id STRING, page STRING, device ROW<kind STRING, screen ROW<width INT, height INT>>, tags ARRAY<STRING>,
           amount DECIMAL(10, 2), attributes MAP<STRING, STRING>, error_code STRING, message STRING>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/events', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE metrics (metric_key STRING, sort_key STRING, n BIGINT, cents BIGINT, last_updated STRING, PRIMARY KEY (metric_key, sort_key) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/metrics', 'format' = 'json');

INSERT INTO metrics (metric_key, sort_key, n, last_updated)
SELECT 'views#' || DATE_FORMAT(`timestamp`, 'yyyy-MM-dd'), COALESCE(data.page, '(none)'), COUNT(*), DATE_FORMAT(MAX(`timestamp`), 'yyyy-MM-dd''T''HH:mm:ss.SSS''Z''')
FROM events WHERE event_type = 'page_view' GROUP BY DATE_FORMAT(`timestamp`, 'yyyy-MM-dd'), COALESCE(data.page, '(none)');

INSERT INTO metrics (sort_key, metric_key, cents)
SELECT 'total', 'revenue#' || DATE_FORMAT(`timestamp`, 'yyyy-MM-dd'), SUM(CAST(ROUND(data.amount * 100) AS BIGINT))
FROM events WHERE event_type = 'purchase' GROUP BY DATE_FORMAT(`timestamp`, 'yyyy-MM-dd');

INSERT INTO metrics (metric_key, sort_key, n, last_updated)
SELECT 'errors#' || DATE_FORMAT(`timestamp`, 'yyyy-MM-dd HH'), COALESCE(data.error_code, 'unknown'), COUNT(*), DATE_FORMAT(MAX(`timestamp`), 'HH:mm:ss')
FROM events WHERE event_type = 'error' GROUP BY DATE_FORMAT(`timestamp`, 'yyyy-MM-dd HH'), data.error_code;
