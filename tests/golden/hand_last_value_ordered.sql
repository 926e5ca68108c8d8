-- oracle: hand
-- FIRST_VALUE and LAST_VALUE with an order of their own: the same whatever the order of arrival.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE per_country (country STRING, first_id INT, last_id INT, longest INT, PRIMARY KEY (country) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/per_country', 'format' = 'json');

INSERT INTO per_country
SELECT country, FIRST_VALUE(id ORDER BY ts, id), LAST_VALUE(id ORDER BY ts, id), LAST_VALUE(id ORDER BY COALESCE(duration, 0), id) FROM clicks GROUP BY country;

CREATE TABLE per_minute (window_start TIMESTAMP(3), country STRING, n BIGINT, last_id INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/per_minute', 'format' = 'json');

INSERT INTO per_minute
SELECT window_start, country, COUNT(*), LAST_VALUE(id ORDER BY ts, id)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, country;
