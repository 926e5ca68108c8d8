-- A left join keeps the rows without a match.
CREATE TABLE orders (
  order_id STRING, user_id STRING, product STRING, amount DECIMAL(10, 2), quantity INT, currency STRING, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

-- The reference table: a file, without a watermark.
CREATE TABLE products (product STRING, name STRING, category STRING, margin DECIMAL(5, 4))
WITH ('connector' = 'filesystem', 'path' = '${IN}/products', 'format' = 'csv');

CREATE TABLE enriched (order_id STRING, name STRING, category STRING, PRIMARY KEY (order_id) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/enriched', 'format' = 'json');

INSERT INTO enriched
SELECT o.order_id, p.name, COALESCE(p.category, 'unknown') FROM orders AS o LEFT JOIN products AS p ON p.product = o.product;

CREATE TABLE unmatched (order_id STRING, product STRING, PRIMARY KEY (order_id) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/unmatched', 'format' = 'json');

INSERT INTO unmatched
SELECT o.order_id, o.product FROM orders AS o LEFT OUTER JOIN products AS p ON p.product = o.product WHERE p.name IS NULL;
