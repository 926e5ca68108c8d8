-- Computed columns: from physical ones, and used like them.
CREATE TABLE orders (
  order_id STRING, amount DECIMAL(10, 2), quantity INT, `time` TIMESTAMP_LTZ(3),
  cents AS CAST(amount * 100 AS BIGINT),
  item_price AS CAST(amount / quantity AS DECIMAL(10, 4)),
  order_day AS DATE_FORMAT(`time`, 'yyyy-MM-dd'),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE priced (order_id STRING, cents BIGINT, item_price DECIMAL(10, 4), order_day STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/priced', 'format' = 'json');

INSERT INTO priced SELECT order_id, cents, item_price, order_day FROM orders;

CREATE TABLE per_day (order_day STRING, cents BIGINT, PRIMARY KEY (order_day) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/per_day', 'format' = 'json');

INSERT INTO per_day SELECT order_day, SUM(cents) FROM orders GROUP BY order_day;
