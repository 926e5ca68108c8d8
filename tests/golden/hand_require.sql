-- oracle: hand
-- REQUIRE sends the rows that fail to the error output, for this query only; a NULL condition fails.

CREATE TABLE orders (
  order_id STRING, user_id STRING, product STRING, amount DECIMAL(10, 2), quantity INT, currency STRING, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE priced (order_id STRING, amount DECIMAL(10, 2))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/priced', 'format' = 'json');

INSERT INTO priced SELECT order_id, amount FROM orders WHERE currency = 'EUR' AND REQUIRE(amount > 50, 'amount is missing or small');

CREATE TABLE all_orders (order_id STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/all_orders', 'format' = 'json');

INSERT INTO all_orders SELECT order_id FROM orders;

CREATE TABLE totals (currency STRING, total DECIMAL(38, 2), n BIGINT, PRIMARY KEY (currency) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/totals', 'format' = 'json');

INSERT INTO totals SELECT currency, SUM(amount), COUNT(*) FROM orders WHERE REQUIRE(amount IS NOT NULL, 'no amount') GROUP BY currency;
