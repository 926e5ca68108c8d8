CREATE TABLE events (event_type STRING, `timestamp` TIMESTAMP_LTZ(3), data ROW<page STRING>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
