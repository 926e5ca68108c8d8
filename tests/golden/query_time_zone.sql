-- The session's zone rules what a TIMESTAMP_LTZ looks like: windows of a day begin at New York's midnight.
SET 'table.local-time-zone' = 'America/New_York';

CREATE TABLE days (id INT, k STRING, ts TIMESTAMP_LTZ(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${IN}/days', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE per_day (window_start TIMESTAMP(3), window_end TIMESTAMP(3), k STRING, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/per_day', 'format' = 'json');

INSERT INTO per_day
SELECT window_start, window_end, k, COUNT(*) FROM TABLE(TUMBLE(TABLE days, DESCRIPTOR(ts), INTERVAL '1' DAY)) GROUP BY window_start, window_end, k;

CREATE TABLE shown (id INT, local_day STRING, local_hour BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/shown', 'format' = 'json');

INSERT INTO shown SELECT id, DATE_FORMAT(ts, 'yyyy-MM-dd HH:mm'), EXTRACT(HOUR FROM ts) FROM days WHERE id < 30;
