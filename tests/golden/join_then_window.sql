-- Windows of joined rows.
CREATE TABLE orders (
  order_id STRING, user_id STRING, product STRING, amount DECIMAL(10, 2), quantity INT, currency STRING, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

-- The reference table: a file, without a watermark.
CREATE TABLE products (product STRING, name STRING, category STRING, margin DECIMAL(5, 4))
WITH ('connector' = 'filesystem', 'path' = '${IN}/products', 'format' = 'csv');

CREATE TABLE minutes (category STRING, window_start TIMESTAMP(3), n BIGINT, total DECIMAL(38, 2), PRIMARY KEY (category, window_start) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/minutes', 'format' = 'json');

INSERT INTO minutes
SELECT COALESCE(p.category, 'unknown'), e.window_start, COUNT(*), SUM(e.amount)
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(`time`), INTERVAL '5' MINUTES)) AS e
LEFT JOIN products AS p ON p.product = e.product
WHERE e.amount IS NOT NULL
GROUP BY e.window_start, e.window_end, COALESCE(p.category, 'unknown');
