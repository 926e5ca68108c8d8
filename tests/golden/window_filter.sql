-- FILTER: an aggregate over some of the rows of its group.
CREATE TABLE events (
  event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3),
  data ROW<user_id STRING, page STRING, device ROW<kind STRING, screen ROW<width INT, height INT>>, tags ARRAY<STRING>,
           amount DECIMAL(10, 2), attributes MAP<STRING, STRING>, error_code STRING, message STRING>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/events', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE kinds (window_start TIMESTAMP(3), n BIGINT, views_n BIGINT, purchases BIGINT, revenue DECIMAL(38, 2), errors BIGINT, first_code STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/kinds', 'format' = 'json');

INSERT INTO kinds
SELECT window_start, COUNT(*), COUNT(*) FILTER (WHERE event_type = 'page_view'), COUNT(*) FILTER (WHERE event_type = 'purchase'),
  SUM(data.amount) FILTER (WHERE event_type = 'purchase' AND data.amount > 100), COUNT(data.error_code) FILTER (WHERE data.message <> ''), MIN(data.error_code) FILTER (WHERE event_type = 'error')
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
