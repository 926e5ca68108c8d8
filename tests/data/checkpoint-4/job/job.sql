CREATE TABLE visits (n BIGINT, page STRING, visitor STRING, price DECIMAL(10, 2), `at` TIMESTAMP(3),
  WATERMARK FOR `at` AS `at` - INTERVAL '2' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 'visits', 'format' = 'json');
CREATE TABLE areas (page STRING, area STRING) WITH ('connector' = 'filesystem', 'path' = 'areas.csv', 'format' = 'csv');

CREATE TABLE pages (page STRING, visits BIGINT, visitors BIGINT, least DECIMAL(10, 2), most DECIMAL(10, 2), total DECIMAL(20, 2),
  mean DOUBLE, latest STRING, PRIMARY KEY (page) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'pages');
INSERT INTO pages
SELECT page, COUNT(*), COUNT(DISTINCT visitor), MIN(price), MAX(price), SUM(price), AVG(CAST(n AS DOUBLE)),
  LAST_VALUE(visitor ORDER BY `at`, n)
FROM visits GROUP BY page;

CREATE TABLE minutes (page STRING, minute_start STRING, visits BIGINT, visitors BIGINT, total DECIMAL(20, 2), mean DOUBLE,
  PRIMARY KEY (page, minute_start) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'minutes');
INSERT INTO minutes
SELECT page, DATE_FORMAT(window_start, 'HH:mm'), COUNT(*), COUNT(DISTINCT visitor), SUM(price), AVG(CAST(n AS DOUBLE))
FROM TABLE(TUMBLE(TABLE visits, DESCRIPTOR(`at`), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, page;

CREATE TABLE best (minute_start STRING, place BIGINT, page STRING, visits BIGINT, PRIMARY KEY (minute_start, place) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'best');
INSERT INTO best
SELECT DATE_FORMAT(window_start, 'HH:mm'), place, page, visits FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY visits DESC, page) AS place FROM (
    SELECT window_start, window_end, page, COUNT(*) AS visits
    FROM TABLE(HOP(TABLE visits, DESCRIPTOR(`at`), INTERVAL '1' MINUTE, INTERVAL '2' MINUTES)) GROUP BY window_start, window_end, page))
WHERE place <= 3;

CREATE TABLE dearest (minute_start STRING, place BIGINT, n BIGINT, price DECIMAL(10, 2), PRIMARY KEY (minute_start, place) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'dearest');
INSERT INTO dearest
SELECT DATE_FORMAT(window_start, 'HH:mm'), place, n, price FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY price DESC, n) AS place
  FROM TABLE(TUMBLE(TABLE visits, DESCRIPTOR(`at`), INTERVAL '1' MINUTE)))
WHERE place <= 2;

CREATE TABLE archive (n BIGINT, page STRING, visitor STRING, area STRING) WITH ('connector' = 'filesystem', 'path' = 's3://kept/archive/',
  'format' = 'parquet', 'sink.rolling-policy.rollover-interval' = '300 s');
INSERT INTO archive SELECT n, v.page, visitor, area FROM visits AS v LEFT JOIN areas AS a ON a.page = v.page;

CREATE TABLE by_minute (minute_start STRING, visits BIGINT) WITH ('connector' = 'filesystem', 'path' = 's3://kept/minutes/',
  'format' = 'parquet', 'sink.rolling-policy.rollover-interval' = '300 s');
INSERT INTO by_minute SELECT DATE_FORMAT(window_start, 'HH:mm'), COUNT(*)
FROM TABLE(TUMBLE(TABLE visits, DESCRIPTOR(`at`), INTERVAL '20' SECONDS)) GROUP BY window_start, window_end;

CREATE TABLE complete (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 's3://kept/complete/', 'format' = 'parquet',
  'sink.rolling-policy.row-count' = '60');
INSERT INTO complete SELECT n FROM visits;
