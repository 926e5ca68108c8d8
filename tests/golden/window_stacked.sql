-- Windows over windows, by window_time.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE VIEW minutes AS
SELECT window_start AS s, window_end AS e, window_time AS t, country, COUNT(*) AS n, COUNT(DISTINCT user_id) AS users
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, window_time, country;

CREATE TABLE fives (window_start TIMESTAMP(3), window_end TIMESTAMP(3), country STRING, n BIGINT, most BIGINT, minutes BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/fives', 'format' = 'json');

INSERT INTO fives
SELECT window_start, window_end, country, SUM(n), MAX(users), COUNT(*)
FROM TABLE(TUMBLE(TABLE minutes, DESCRIPTOR(t), INTERVAL '5' MINUTES)) GROUP BY window_start, window_end, country;

CREATE TABLE hops (window_start TIMESTAMP(3), window_end TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/hops', 'format' = 'json');

INSERT INTO hops
SELECT window_start, window_end, SUM(n) FROM TABLE(HOP(TABLE minutes, DESCRIPTOR(t), INTERVAL '2' MINUTES, INTERVAL '4' MINUTES)) GROUP BY window_start, window_end;
