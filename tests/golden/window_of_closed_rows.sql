-- shards: 1
-- Windows over rows of closed windows: ranked ones by their own time and by their window's, distinct ones; some rows come too late.
CREATE TABLE late (
  id INT, page STRING, duration INT, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/late', 'format' = 'json');

CREATE VIEW longest AS SELECT * FROM (
  SELECT page, duration, ts, window_time AS closed, ROW_NUMBER() OVER (PARTITION BY window_start, window_end, page ORDER BY duration DESC, id) AS place
  FROM TABLE(TUMBLE(TABLE late, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
) WHERE place <= 2;

CREATE TABLE by_own_time (window_start TIMESTAMP(3), page STRING, n BIGINT, most INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/by_own_time', 'format' = 'json');

INSERT INTO by_own_time SELECT window_start, page, COUNT(*), MAX(duration)
FROM TABLE(HOP(TABLE longest, DESCRIPTOR(ts), INTERVAL '2' MINUTES, INTERVAL '4' MINUTES)) GROUP BY window_start, window_end, page;

CREATE TABLE by_window_time (window_start TIMESTAMP(3), page STRING, n BIGINT, most INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/by_window_time', 'format' = 'json');

INSERT INTO by_window_time SELECT window_start, page, COUNT(*), MAX(duration)
FROM TABLE(TUMBLE(TABLE longest, DESCRIPTOR(closed), INTERVAL '30' SECOND)) GROUP BY window_start, window_end, page;

CREATE VIEW pages AS
SELECT DISTINCT window_start AS s, window_end AS e, window_time AS closed, page FROM TABLE(TUMBLE(TABLE late, DESCRIPTOR(ts), INTERVAL '1' MINUTE));

CREATE TABLE distinct_pages (window_start TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/distinct_pages', 'format' = 'json');

INSERT INTO distinct_pages SELECT window_start, COUNT(*)
FROM TABLE(TUMBLE(TABLE pages, DESCRIPTOR(closed), INTERVAL '5' MINUTES)) GROUP BY window_start, window_end;
