-- An inner join with a reference table: a row for each match, none without; a NULL matches nothing.

CREATE TABLE orders (
  order_id STRING, user_id STRING, product STRING, amount DECIMAL(10, 2), quantity INT, currency STRING, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

-- The reference table: a file, without a watermark.
CREATE TABLE products (product STRING, name STRING, category STRING, margin DECIMAL(5, 4))
WITH ('connector' = 'filesystem', 'path' = '${IN}/products', 'format' = 'csv');

CREATE TABLE enriched (order_id STRING, name STRING, category STRING, margin DECIMAL(14, 6))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/enriched', 'format' = 'json');

INSERT INTO enriched
SELECT o.order_id, p.name, p.category, o.amount * p.margin FROM orders AS o JOIN products AS p ON o.product = p.product;

CREATE TABLE costly (order_id STRING, name STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/costly', 'format' = 'json');

INSERT INTO costly
SELECT order_id, name FROM orders INNER JOIN products ON orders.product = products.product WHERE category = 'home' AND amount > 300;
