-- The two longest clicks of each minute, straight from the window function: whole rows; NULLs come last in descending order.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE longest (window_start TIMESTAMP(3), window_end TIMESTAMP(3), id INT, duration INT, page STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/longest', 'format' = 'json');

INSERT INTO longest
SELECT window_start, window_end, id, duration, page FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY duration DESC, id DESC) AS place FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
) WHERE place <= 2;

CREATE TABLE shortest (window_start TIMESTAMP(3), id INT, duration INT, place BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/shortest', 'format' = 'json');

INSERT INTO shortest
SELECT window_start, id, duration, place FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY duration, id) AS place FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
) WHERE place <= 2;
