-- COUNT(DISTINCT) beside other aggregates, of the same and of other columns.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE visitors (window_start TIMESTAMP(3), page STRING, n BIGINT, users BIGINT, known BIGINT, total INT, best DOUBLE)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/visitors', 'format' = 'json');

INSERT INTO visitors SELECT window_start, page, COUNT(*), COUNT(DISTINCT user_id), COUNT(user_id), SUM(duration), MAX(score)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '2' MINUTES)) GROUP BY window_start, window_end, page;

CREATE TABLE hops (window_start TIMESTAMP(3), n BIGINT, users BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/hops', 'format' = 'json');

INSERT INTO hops SELECT window_start, COUNT(*), COUNT(DISTINCT user_id)
FROM TABLE(HOP(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '3' MINUTES)) GROUP BY window_start, window_end;
