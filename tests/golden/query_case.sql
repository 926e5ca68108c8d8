-- CASE in both forms, nested, without ELSE; types of the branches are widened.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE sorted_out (id INT, size STRING, land STRING, number DOUBLE, nothing STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/sorted_out', 'format' = 'json');

INSERT INTO sorted_out
SELECT id,
  CASE WHEN duration IS NULL THEN 'unknown' WHEN duration < 100 THEN 'short' WHEN duration < 500 THEN 'middle' ELSE 'long' END,
  CASE country WHEN 'DE' THEN 'Deutschland' WHEN 'FR' THEN 'France' END,
  CASE WHEN id > 10 THEN 1 WHEN id > 5 THEN score ELSE 0.5 END,
  CASE WHEN page = '/a' THEN CASE WHEN id > 50 THEN 'late a' ELSE 'early a' END END
FROM clicks;
