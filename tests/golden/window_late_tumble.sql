-- shards: 1
-- Rows that come after their window has closed are left out; the same row may be in time for a longer window.

CREATE TABLE late (
  id INT, page STRING, duration INT, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/late', 'format' = 'json');

CREATE TABLE minutes (window_start TIMESTAMP(3), page STRING, n BIGINT, total INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/minutes', 'format' = 'json');

INSERT INTO minutes SELECT window_start, page, COUNT(*), SUM(duration) FROM TABLE(TUMBLE(TABLE late, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, page;

CREATE TABLE tens (window_start TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/tens', 'format' = 'json');

INSERT INTO tens SELECT window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE late, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY window_start, window_end;

CREATE TABLE legacy (w_start TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/legacy', 'format' = 'json');

INSERT INTO legacy SELECT TUMBLE_START(ts, INTERVAL '1' MINUTE), COUNT(*) FROM late WHERE page <> '/' GROUP BY TUMBLE(ts, INTERVAL '1' MINUTE);

CREATE TABLE unwindowed (page STRING, n BIGINT, PRIMARY KEY (page) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/unwindowed', 'format' = 'json');

INSERT INTO unwindowed SELECT page, COUNT(*) FROM late GROUP BY page;
