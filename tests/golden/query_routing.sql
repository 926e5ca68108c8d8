-- One source, many sinks: rows of a kind each go their way; one query counts them all.

CREATE TABLE events (
  event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3),
  data ROW<user_id STRING, page STRING, device ROW<kind STRING, screen ROW<width INT, height INT>>, tags ARRAY<STRING>,
           amount DECIMAL(10, 2), attributes MAP<STRING, STRING>, error_code STRING, message STRING>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/events', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE page_views (event_id STRING, page STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/page_views', 'format' = 'json');

CREATE TABLE purchases (event_id STRING, amount DECIMAL(10, 2))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/purchases', 'format' = 'json');

CREATE TABLE errors (event_id STRING, code STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/errors', 'format' = 'json');

CREATE TABLE others (event_id STRING, event_type STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/others', 'format' = 'json');

CREATE TABLE kinds (event_type STRING, n BIGINT, PRIMARY KEY (event_type) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/kinds', 'format' = 'json');

INSERT INTO page_views SELECT event_id, data.page FROM events WHERE event_type = 'page_view';

INSERT INTO purchases SELECT event_id, data.amount FROM events WHERE event_type = 'purchase';

INSERT INTO errors SELECT event_id, data.error_code FROM events WHERE event_type = 'error';

INSERT INTO others SELECT event_id, event_type FROM events WHERE event_type NOT IN ('page_view', 'purchase', 'error');

INSERT INTO kinds SELECT event_type, COUNT(*) FROM events GROUP BY event_type;
