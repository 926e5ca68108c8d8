-- NULL is a key like others.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE grouped (window_start TIMESTAMP(3), page STRING, user_id STRING, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/grouped', 'format' = 'json');

INSERT INTO grouped SELECT window_start, page, user_id, COUNT(*)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '5' MINUTES)) GROUP BY window_start, window_end, page, user_id;
