-- oracle: hand
-- shards: 1
-- A window over rows that may be late and results of closed windows, which are not. (What is late in Flink, the slower one of its two sources says.)
CREATE TABLE late (
  id INT, page STRING, duration INT, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/late', 'format' = 'json');

CREATE VIEW minutes AS
SELECT window_time AS t, page, COUNT(*) AS n FROM TABLE(TUMBLE(TABLE late, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, window_time, page;

CREATE VIEW of_rows AS SELECT ts AS t, page, CAST(1 AS BIGINT) AS n FROM late UNION ALL SELECT t, page, n FROM minutes;

CREATE TABLE with_rows (window_start TIMESTAMP(3), page STRING, c BIGINT, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/with_rows', 'format' = 'json');

INSERT INTO with_rows SELECT window_start, page, COUNT(*), SUM(n) FROM TABLE(TUMBLE(TABLE of_rows, DESCRIPTOR(t), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, page;

CREATE VIEW of_windows AS
SELECT window_time AS t, page, CAST(1 AS BIGINT) AS n FROM TABLE(TUMBLE(TABLE late, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
UNION ALL
SELECT t, page, n FROM minutes;

CREATE TABLE with_windows (window_start TIMESTAMP(3), page STRING, c BIGINT, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/with_windows', 'format' = 'json');

INSERT INTO with_windows SELECT window_start, page, COUNT(*), SUM(n) FROM TABLE(TUMBLE(TABLE of_windows, DESCRIPTOR(t), INTERVAL '2' MINUTES)) GROUP BY window_start, window_end, page;
