-- The input of a window function: a view that filters, renames and computes.
CREATE TABLE events (
  event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3),
  data ROW<user_id STRING, page STRING, device ROW<kind STRING, screen ROW<width INT, height INT>>, tags ARRAY<STRING>,
           amount DECIMAL(10, 2), attributes MAP<STRING, STRING>, error_code STRING, message STRING>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/events', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE VIEW page_views AS
SELECT `timestamp` AS seen_at, data.page AS page, UPPER(data.device.kind) AS kind FROM events WHERE event_type = 'page_view';

CREATE TABLE minutes (window_start TIMESTAMP(3), page STRING, kind STRING, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/minutes', 'format' = 'json');

INSERT INTO minutes SELECT window_start, page, kind, COUNT(*)
FROM TABLE(TUMBLE(TABLE page_views, DESCRIPTOR(seen_at), INTERVAL '2' MINUTES)) GROUP BY window_start, window_end, page, kind;
