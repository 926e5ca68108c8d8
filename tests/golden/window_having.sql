-- HAVING sees the final value of a window.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE spikes (window_start TIMESTAMP(3), page STRING, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/spikes', 'format' = 'json');

INSERT INTO spikes SELECT window_start, page, COUNT(*)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, page
HAVING COUNT(*) >= 5 AND page <> '/';

CREATE TABLE not_shown (window_start TIMESTAMP(3), country STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/not_shown', 'format' = 'json');

INSERT INTO not_shown SELECT window_start, country
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, country
HAVING SUM(duration) > 5000 OR MAX(score) IS NULL;
