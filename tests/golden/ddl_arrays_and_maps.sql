-- Elements of arrays (from 1) and of maps, and whole ones into a sink.
CREATE TABLE events (
  event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3),
  data ROW<user_id STRING, page STRING, device ROW<kind STRING, screen ROW<width INT, height INT>>, tags ARRAY<STRING>,
           amount DECIMAL(10, 2), attributes MAP<STRING, STRING>, error_code STRING, message STRING>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/events', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE tags (event_id STRING, first_tag STRING, tags ARRAY<STRING>, n INT, has_sale BOOLEAN)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/tags', 'format' = 'json');

INSERT INTO tags
SELECT event_id, data.tags[1], data.tags, CARDINALITY(data.tags), ARRAY_CONTAINS(data.tags, 'sale')
FROM events WHERE event_type = 'page_view';

CREATE TABLE attributes (event_id STRING, coupon STRING, shipping STRING, attributes MAP<STRING, STRING>, n INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/attributes', 'format' = 'json');

INSERT INTO attributes
SELECT event_id, data.attributes['coupon'], data.attributes['shipping'], data.attributes, CARDINALITY(data.attributes)
FROM events WHERE event_type = 'purchase';

CREATE TABLE made (event_id STRING, pair ROW<a STRING, b INT>, list ARRAY<INT>)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/made', 'format' = 'json');

INSERT INTO made SELECT event_id, ROW(event_type, 7), ARRAY[1, 2, 3] FROM events WHERE event_type = 'error';
