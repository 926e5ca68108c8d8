-- oracle: hand
-- A window function in a view and in a CTE, which branches of one INSERT use in different ways, in both orders: each use has windows of its own, whatever
-- the one before has shared. (Flink groups by one bound without a window.)
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE VIEW hops AS SELECT * FROM TABLE(HOP(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '3' MINUTES));

CREATE TABLE shared_first (form STRING, w TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/shared_first', 'format' = 'json');

INSERT INTO shared_first
SELECT 'both', window_start, COUNT(*) FROM hops GROUP BY window_start, window_end
UNION ALL
SELECT 'end', window_end, COUNT(*) FROM hops GROUP BY window_end
UNION ALL
SELECT 'start', window_start, COUNT(*) FROM hops GROUP BY window_start
UNION ALL
SELECT 'filtered', window_start, COUNT(*) FROM hops WHERE window_end > TIMESTAMP '2026-02-12 10:04:00' GROUP BY window_start, window_end
UNION ALL
SELECT 'aggregated', window_start, CAST(MAX(EXTRACT(MINUTE FROM window_end)) AS BIGINT) FROM hops GROUP BY window_start, window_end
UNION ALL
SELECT 'ranked', window_start, CAST(id AS BIGINT) FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY ts DESC, id DESC) AS place FROM hops
) WHERE place = 1;

CREATE TABLE shared_last (form STRING, w TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/shared_last', 'format' = 'json');

INSERT INTO shared_last
SELECT 'ranked', window_start, CAST(id AS BIGINT) FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY ts DESC, id DESC) AS place FROM hops
) WHERE place = 1
UNION ALL
SELECT 'aggregated', window_start, CAST(MAX(EXTRACT(MINUTE FROM window_end)) AS BIGINT) FROM hops GROUP BY window_start, window_end
UNION ALL
SELECT 'filtered', window_start, COUNT(*) FROM hops WHERE window_end > TIMESTAMP '2026-02-12 10:04:00' GROUP BY window_start, window_end
UNION ALL
SELECT 'start', window_start, COUNT(*) FROM hops GROUP BY window_start
UNION ALL
SELECT 'end', window_end, COUNT(*) FROM hops GROUP BY window_end
UNION ALL
SELECT 'both', window_start, COUNT(*) FROM hops GROUP BY window_start, window_end;

CREATE TABLE cumulated (form STRING, w TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/cumulated', 'format' = 'json');

INSERT INTO cumulated
WITH growing AS (SELECT * FROM TABLE(CUMULATE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '3' MINUTES)))
SELECT 'both', window_end, COUNT(*) FROM growing GROUP BY window_start, window_end
UNION ALL
SELECT 'end', window_end, COUNT(*) FROM growing GROUP BY window_end
UNION ALL
SELECT 'ranked', window_end, CAST(id AS BIGINT) FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY ts DESC, id DESC) AS place FROM growing
) WHERE place = 1;
