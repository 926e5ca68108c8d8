-- A JSON text out of columns.
CREATE TABLE events (
  event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3),
  data ROW<user_id STRING, page STRING, device ROW<kind STRING, screen ROW<width INT, height INT>>, tags ARRAY<STRING>,
           amount DECIMAL(10, 2), attributes MAP<STRING, STRING>, error_code STRING, message STRING>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/events', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE bodies (event_id STRING, body STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/bodies', 'format' = 'json');

INSERT INTO bodies
SELECT event_id, JSON_OBJECT(KEY 'code' VALUE data.error_code, KEY 'message' VALUE data.message, KEY 'user' VALUE data.user_id, KEY 'n' VALUE 7)
FROM events WHERE event_type = 'error';
