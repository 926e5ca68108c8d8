-- A legacy window over a legacy window, by TUMBLE_ROWTIME.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE VIEW minutes AS
SELECT page, COUNT(*) AS n, TUMBLE_ROWTIME(ts, INTERVAL '1' MINUTE) AS t FROM clicks GROUP BY page, TUMBLE(ts, INTERVAL '1' MINUTE);

CREATE TABLE busiest (w_start TIMESTAMP(3), page STRING, most BIGINT, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/busiest', 'format' = 'json');

INSERT INTO busiest
SELECT TUMBLE_START(t, INTERVAL '5' MINUTE), page, MAX(n), SUM(n) FROM minutes GROUP BY page, TUMBLE(t, INTERVAL '5' MINUTE);
