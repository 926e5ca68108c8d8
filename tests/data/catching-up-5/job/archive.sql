CREATE TABLE archive (event_type STRING, `timestamp` TIMESTAMP_LTZ(3), page STRING)
WITH ('connector' = 'filesystem', 'path' = '../archive', 'format' = 'json', 'sink.rolling-policy.rollover-interval' = '1 h');
INSERT INTO archive SELECT event_type, `timestamp`, data.page FROM events;
