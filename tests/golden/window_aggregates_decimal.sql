-- Money: sums and extremes of decimals are exact; AVG has six more digits.

CREATE TABLE orders (
  order_id STRING, user_id STRING, product STRING, amount DECIMAL(10, 2), quantity INT, currency STRING, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE money (window_start TIMESTAMP(3), currency STRING, n BIGINT, total DECIMAL(38, 2), average DECIMAL(38, 6), lo DECIMAL(10, 2), hi DECIMAL(10, 2), cents BIGINT, items INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/money', 'format' = 'json');

INSERT INTO money
SELECT window_start, currency, COUNT(amount), SUM(amount), AVG(amount), MIN(amount), MAX(amount), SUM(CAST(ROUND(amount * 100) AS BIGINT)), SUM(quantity)
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(`time`), INTERVAL '5' MINUTES)) GROUP BY window_start, window_end, currency;
