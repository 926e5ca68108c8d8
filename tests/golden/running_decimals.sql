-- Exact money in running sums, averages and extremes.
CREATE TABLE orders (
  order_id STRING, user_id STRING, product STRING, amount DECIMAL(10, 2), quantity INT, currency STRING, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE money (currency STRING, n BIGINT, total DECIMAL(38, 2), average DECIMAL(38, 6), lo DECIMAL(10, 2), hi DECIMAL(10, 2), PRIMARY KEY (currency) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/money', 'format' = 'json');

INSERT INTO money SELECT currency, COUNT(*), SUM(amount), AVG(amount), MIN(amount), MAX(amount) FROM orders GROUP BY currency;

CREATE TABLE items (product STRING, spent DECIMAL(38, 2), most INT, PRIMARY KEY (product) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/items', 'format' = 'json');

INSERT INTO items SELECT COALESCE(product, '(none)'), SUM(amount * quantity), MAX(quantity) FROM orders WHERE amount IS NOT NULL GROUP BY COALESCE(product, '(none)');
