-- TIMESTAMP is a reading of the clock, TIMESTAMP_LTZ a point in time: in UTC they look alike, but for the Z.
CREATE TABLE orders (
  order_id STRING, user_id STRING, product STRING, amount DECIMAL(10, 2), quantity INT, currency STRING, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE times (order_id STRING, ltz TIMESTAMP_LTZ(3), plain TIMESTAMP(3), as_text STRING, day_of DATE, back TIMESTAMP_LTZ(3))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/times', 'format' = 'json');

INSERT INTO times
SELECT order_id, `time`, CAST(`time` AS TIMESTAMP(3)), CAST(CAST(`time` AS TIMESTAMP(3)) AS STRING), CAST(`time` AS DATE), TO_TIMESTAMP_LTZ(1770890400000, 3) FROM orders;

CREATE TABLE windows (window_start TIMESTAMP(3), window_end TIMESTAMP(3), in_text STRING, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/windows', 'format' = 'json');

INSERT INTO windows
SELECT window_start, window_end, DATE_FORMAT(window_start, 'HH:mm'), COUNT(*)
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(`time`), INTERVAL '5' MINUTES)) GROUP BY window_start, window_end;
