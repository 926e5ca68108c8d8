-- Two keys and a further condition; the reference table is CSV with semicolons. Then two reference tables at once.

CREATE TABLE orders (
  order_id STRING, user_id STRING, product STRING, amount DECIMAL(10, 2), quantity INT, currency STRING, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

-- The reference table: a file, without a watermark.
CREATE TABLE products (product STRING, name STRING, category STRING, margin DECIMAL(5, 4))
WITH ('connector' = 'filesystem', 'path' = '${IN}/products', 'format' = 'csv');

CREATE TABLE prices (product STRING, currency STRING, price DECIMAL(6, 2))
WITH ('connector' = 'filesystem', 'path' = '${IN}/prices', 'format' = 'csv', 'csv.field-delimiter' = ';');

CREATE TABLE priced (order_id STRING, price DECIMAL(6, 2))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/priced', 'format' = 'json');

INSERT INTO priced
SELECT o.order_id, p.price FROM orders AS o JOIN prices AS p ON o.product = p.product AND o.currency = p.currency AND p.price < o.amount / 100;

CREATE TABLE twofold (order_id STRING, name STRING, price DECIMAL(6, 2))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/twofold', 'format' = 'json');

INSERT INTO twofold
SELECT o.order_id, a.name, b.price FROM orders AS o JOIN products AS a ON o.product = a.product JOIN prices AS b ON b.product = a.product AND b.currency = o.currency;
