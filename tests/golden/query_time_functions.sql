-- Parts, floors and texts of a time.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE parts (id INT, y BIGINT, mo BIGINT, d BIGINT, h BIGINT, mi BIGINT, s BIGINT, q BIGINT, doy BIGINT, dow BIGINT, txt STRING, iso STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/parts', 'format' = 'json');

INSERT INTO parts
SELECT id, EXTRACT(YEAR FROM ts), MONTH(ts), DAYOFMONTH(ts), HOUR(ts), MINUTE(ts), SECOND(ts), QUARTER(ts), DAYOFYEAR(ts), DAYOFWEEK(ts),
  DATE_FORMAT(ts, 'yyyy/MM/dd HH:mm'), DATE_FORMAT(ts, 'yyyy-MM-dd''T''HH:mm:ss.SSS''Z''')
FROM clicks;

CREATE TABLE floors (id INT, m TIMESTAMP(3), h TIMESTAMP(3), c TIMESTAMP(3), plus TIMESTAMP(3), less TIMESTAMP(3), d DATE, added TIMESTAMP(3), diff INT, secs INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/floors', 'format' = 'json');

INSERT INTO floors
SELECT id, FLOOR(ts TO MINUTE), FLOOR(ts TO HOUR), CEIL(ts TO MINUTE), ts + INTERVAL '1' DAY, ts - INTERVAL '90' SECOND, CAST(ts AS DATE),
  TIMESTAMPADD(MONTH, 1, ts), TIMESTAMPDIFF(MINUTE, TIMESTAMP '2026-02-12 10:00:00', ts), TIMESTAMPDIFF(SECOND, ts, TIMESTAMP '2026-02-12 10:00:00')
FROM clicks;
