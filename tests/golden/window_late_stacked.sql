-- shards: 1
-- Late in the inner window is late for all; the outer window gets the inner one's final rows.

CREATE TABLE late (
  id INT, page STRING, duration INT, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/late', 'format' = 'json');

CREATE VIEW minutes AS
SELECT window_time AS t, page, COUNT(*) AS n FROM TABLE(TUMBLE(TABLE late, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, window_time, page;

CREATE TABLE fives (window_start TIMESTAMP(3), page STRING, n BIGINT, minutes BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/fives', 'format' = 'json');

INSERT INTO fives SELECT window_start, page, SUM(n), COUNT(*) FROM TABLE(TUMBLE(TABLE minutes, DESCRIPTOR(t), INTERVAL '5' MINUTES)) GROUP BY window_start, window_end, page;
