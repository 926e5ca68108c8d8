-- The older form, as published jobs have it: TUMBLE in GROUP BY.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE minutes (page STRING, w_start TIMESTAMP(3), w_end TIMESTAMP(3), w_time TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/minutes', 'format' = 'json');

INSERT INTO minutes
SELECT page, TUMBLE_START(ts, INTERVAL '1' MINUTE), TUMBLE_END(ts, INTERVAL '1' MINUTE), CAST(TUMBLE_ROWTIME(ts, INTERVAL '1' MINUTE) AS TIMESTAMP(3)), COUNT(*)
FROM clicks
GROUP BY TUMBLE(ts, INTERVAL '1' MINUTE), page;

CREATE TABLE having_many (w_start TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/having_many', 'format' = 'json');

INSERT INTO having_many
SELECT TUMBLE_START(ts, INTERVAL '30' SECOND) AS w_start, COUNT(*) AS n FROM clicks WHERE page IS NOT NULL
GROUP BY TUMBLE(ts, INTERVAL '30' SECOND) HAVING COUNT(*) > 13;
