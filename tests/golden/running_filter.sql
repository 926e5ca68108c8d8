-- FILTER without a window: a group whose filter took nothing has COUNT 0 and SUM NULL.
CREATE TABLE events (
  event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3),
  data ROW<user_id STRING, page STRING, device ROW<kind STRING, screen ROW<width INT, height INT>>, tags ARRAY<STRING>,
           amount DECIMAL(10, 2), attributes MAP<STRING, STRING>, error_code STRING, message STRING>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/events', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE kinds (event_type STRING, n BIGINT, big BIGINT, revenue DECIMAL(38, 2), mobile BIGINT, PRIMARY KEY (event_type) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/kinds', 'format' = 'json');

INSERT INTO kinds
SELECT event_type, COUNT(*), COUNT(*) FILTER (WHERE data.amount > 500), SUM(data.amount) FILTER (WHERE data.amount > 500), COUNT(*) FILTER (WHERE data.device.kind = 'mobile')
FROM events GROUP BY event_type;
