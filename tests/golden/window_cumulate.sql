-- Cumulating windows: the same start, an end that grows, until the greatest size.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE steps (window_start TIMESTAMP(3), window_end TIMESTAMP(3), country STRING, n BIGINT, total INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/steps', 'format' = 'json');

INSERT INTO steps
SELECT window_start, window_end, country, COUNT(*), SUM(duration)
FROM TABLE(CUMULATE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '5' MINUTES))
GROUP BY window_start, window_end, country;

CREATE TABLE offset_steps (window_start TIMESTAMP(3), window_end TIMESTAMP(3), users BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/offset_steps', 'format' = 'json');

INSERT INTO offset_steps
SELECT window_start, window_end, COUNT(DISTINCT user_id)
FROM TABLE(CUMULATE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '2' MINUTES, INTERVAL '6' MINUTES, INTERVAL '1' MINUTE))
GROUP BY window_start, window_end;
