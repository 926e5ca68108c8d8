-- oracle: hand
-- Aggregates that Flink does not have: exact ones here, and sketches whose answer is exact for so few values.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE numbers (window_start TIMESTAMP(3), middle DOUBLE, users BIGINT, all_long BOOLEAN, any_long BOOLEAN, bits INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/numbers', 'format' = 'json');

INSERT INTO numbers
SELECT window_start, MEDIAN(score), APPROX_DISTINCT(user_id), BOOL_AND(duration > 10), BOOL_OR(duration > 900), BIT_OR(duration)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;

CREATE TABLE lists (window_start TIMESTAMP(3), pages STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/lists', 'format' = 'json');

INSERT INTO lists
SELECT window_start, STRING_AGG(page, ',' ORDER BY id)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) WHERE page IS NOT NULL GROUP BY window_start, window_end;
