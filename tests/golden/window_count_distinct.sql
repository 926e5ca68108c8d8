-- COUNT(DISTINCT) alone.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE visitors (window_start TIMESTAMP(3), page STRING, users BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/visitors', 'format' = 'json');

INSERT INTO visitors SELECT window_start, page, COUNT(DISTINCT user_id)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '2' MINUTES)) GROUP BY window_start, window_end, page;

CREATE TABLE visitors_in_all (window_start TIMESTAMP(3), users BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/visitors_in_all', 'format' = 'json');

INSERT INTO visitors_in_all SELECT window_start, COUNT(DISTINCT user_id)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '2' MINUTES)) GROUP BY window_start, window_end;
