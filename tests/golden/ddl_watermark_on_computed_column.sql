-- The time attribute is computed: a number of milliseconds, and one of seconds.
CREATE TABLE by_ms (
  id INT, ms BIGINT, k STRING,
  ts AS TO_TIMESTAMP_LTZ(ms, 3),
  WATERMARK FOR ts AS ts - INTERVAL '2' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/unix', 'format' = 'json');

CREATE TABLE by_s (
  id INT, s BIGINT, k STRING,
  ts AS TO_TIMESTAMP_LTZ(s, 0),
  WATERMARK FOR ts AS ts
) WITH ('connector' = 'filesystem', 'path' = '${IN}/unix', 'format' = 'json');

CREATE TABLE minutes_ms (window_start TIMESTAMP(3), k STRING, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/minutes_ms', 'format' = 'json');

INSERT INTO minutes_ms
SELECT window_start, k, COUNT(*) FROM TABLE(TUMBLE(TABLE by_ms, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, k;

CREATE TABLE minutes_s (window_start TIMESTAMP(3), k STRING, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/minutes_s', 'format' = 'json');

INSERT INTO minutes_s
SELECT window_start, k, COUNT(*) FROM TABLE(TUMBLE(TABLE by_s, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, k;
