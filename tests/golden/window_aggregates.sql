-- The usual aggregates; NULLs are left out, a group of NULLs only gives NULL (COUNT 0).

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE numbers (window_start TIMESTAMP(3), page STRING, n BIGINT, n_duration BIGINT, s INT, a INT, lo INT, hi INT, s_score DOUBLE, a_score DOUBLE, lo_page STRING, hi_user STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/numbers', 'format' = 'json');

INSERT INTO numbers
SELECT window_start, page, COUNT(*), COUNT(duration), SUM(duration), AVG(duration), MIN(duration), MAX(duration), SUM(score), AVG(score), MIN(page), MAX(user_id)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '30' SECOND)) GROUP BY window_start, window_end, page;

CREATE TABLE times (window_start TIMESTAMP(3), lo TIMESTAMP(3), hi TIMESTAMP(3), lo_day DATE, any_long BOOLEAN)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/times', 'format' = 'json');

INSERT INTO times
SELECT window_start, MIN(CAST(ts AS TIMESTAMP(3))), MAX(CAST(ts AS TIMESTAMP(3))), MIN(CAST(ts AS DATE)), MAX(CASE WHEN duration > 950 THEN 1 ELSE 0 END) = 1
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
