-- shards: 1
-- No delay at all (rows in order), and the delay of a millisecond that strictly growing times want.
CREATE TABLE no_delay (id INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
WITH ('connector' = 'filesystem', 'path' = '${IN}/ordered', 'format' = 'json');

CREATE TABLE a_millisecond (id INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '0.001' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${IN}/ordered', 'format' = 'json');

CREATE TABLE a_minute (id INT, ts TIMESTAMP(3), WATERMARK FOR `ts` AS ts - INTERVAL '1' MINUTE)
WITH ('connector' = 'filesystem', 'path' = '${IN}/ordered', 'format' = 'json');

CREATE TABLE counts (source STRING, window_start TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/counts', 'format' = 'json');

INSERT INTO counts SELECT 'none', window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE no_delay, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;

INSERT INTO counts SELECT 'ms', window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE a_millisecond, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;

INSERT INTO counts SELECT 'minute', window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE a_minute, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
