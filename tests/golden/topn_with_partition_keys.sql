-- The best page of each country and window; the bounds of the place in other forms.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE VIEW counted AS
SELECT window_start, window_end, country, page, COUNT(*) AS n, SUM(duration) AS total
FROM TABLE(HOP(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '3' MINUTES)) GROUP BY window_start, window_end, country, page;

CREATE TABLE best (window_start TIMESTAMP(3), country STRING, page STRING, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/best', 'format' = 'json');

INSERT INTO best
SELECT window_start, country, page, n FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end, country ORDER BY n DESC, total DESC, page) AS place FROM counted
) WHERE place = 1;

CREATE TABLE two (window_start TIMESTAMP(3), country STRING, page STRING, place BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/two', 'format' = 'json');

INSERT INTO two
SELECT window_start, country, page, place FROM (
  SELECT window_start, country, page, ROW_NUMBER() OVER (PARTITION BY country, window_start, window_end ORDER BY n DESC, total DESC, page) AS place FROM counted
) WHERE place < 3 AND country <> 'US';
