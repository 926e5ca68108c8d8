-- The rows of closed windows joined with a reference table.
CREATE TABLE orders (
  order_id STRING, user_id STRING, product STRING, amount DECIMAL(10, 2), quantity INT, currency STRING, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

-- The reference table: a file, without a watermark.
CREATE TABLE products (product STRING, name STRING, category STRING, margin DECIMAL(5, 4))
WITH ('connector' = 'filesystem', 'path' = '${IN}/products', 'format' = 'csv');

CREATE TABLE named (window_start TIMESTAMP(3), name STRING, n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/named', 'format' = 'json');

INSERT INTO named
SELECT w.window_start, p.name, w.n FROM (
  SELECT window_start, window_end, product, COUNT(*) AS n FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(`time`), INTERVAL '5' MINUTES)) GROUP BY window_start, window_end, product
) AS w JOIN products AS p ON w.product = p.product;
