-- One row for each window; none for a window without rows, none at all for no rows.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE totals (window_end TIMESTAMP(3), n BIGINT, users BIGINT, s INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/totals', 'format' = 'json');

INSERT INTO totals SELECT window_end, COUNT(*), COUNT(user_id), SUM(duration)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '2' MINUTES)) GROUP BY window_start, window_end;

CREATE TABLE seldom (window_end TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/seldom', 'format' = 'json');

INSERT INTO seldom SELECT window_end, COUNT(*) FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '10' SECOND)) WHERE page = '/a' AND country = 'FR' GROUP BY window_start, window_end;

CREATE TABLE never (window_end TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/never', 'format' = 'json');

INSERT INTO never SELECT window_end, COUNT(*) FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) WHERE page = '/zzz' GROUP BY window_start, window_end;
