-- A running aggregate over a join.
CREATE TABLE orders (
  order_id STRING, user_id STRING, product STRING, amount DECIMAL(10, 2), quantity INT, currency STRING, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

-- The reference table: a file, without a watermark.
CREATE TABLE products (product STRING, name STRING, category STRING, margin DECIMAL(5, 4))
WITH ('connector' = 'filesystem', 'path' = '${IN}/products', 'format' = 'csv');

CREATE TABLE categories (category STRING, n BIGINT, cents BIGINT, profit DECIMAL(38, 4), PRIMARY KEY (category) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/categories', 'format' = 'json');

INSERT INTO categories
SELECT COALESCE(p.category, 'unknown'), COUNT(*), SUM(CAST(ROUND(o.amount * 100) AS BIGINT)), CAST(SUM(o.amount * p.margin) AS DECIMAL(38, 4))
FROM orders AS o LEFT JOIN products AS p ON o.product = p.product
GROUP BY COALESCE(p.category, 'unknown');
