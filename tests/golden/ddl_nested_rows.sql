-- Fields of nested rows, at several depths; a NULL row has NULL fields. A number for a STRING is its text.

CREATE TABLE events (
  event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3),
  data ROW<user_id STRING, page STRING, device ROW<kind STRING, screen ROW<width INT, height INT>>, tags ARRAY<STRING>,
           amount DECIMAL(10, 2), attributes MAP<STRING, STRING>, error_code STRING, message STRING>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/events', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE devices (event_id STRING, kind STRING, width INT, area BIGINT, screen ROW<width INT, height INT>)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/devices', 'format' = 'json');

INSERT INTO devices
SELECT event_id, data.device.kind, data.device.screen.width, CAST(data.device.screen.width AS BIGINT) * data.device.screen.height, data.device.screen
FROM events WHERE event_type = 'page_view';

CREATE TABLE others (event_id STRING, error_code STRING, message STRING, user_id STRING, no_data BOOLEAN)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/others', 'format' = 'json');

INSERT INTO others
SELECT e.event_id, e.data.error_code, e.data.message, e.data.user_id, e.data IS NULL FROM events AS e WHERE event_type NOT IN ('page_view', 'purchase');

CREATE TABLE per_kind (kind STRING, n BIGINT, PRIMARY KEY (kind) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/per_kind', 'format' = 'json');

INSERT INTO per_kind SELECT COALESCE(data.device.kind, '-'), COUNT(*) FROM events GROUP BY COALESCE(data.device.kind, '-');
