-- oracle: hand
-- A left join with a reference table gives append rows: an unkeyed sink takes them (in Flink it is an update stream).
CREATE TABLE orders (
  order_id STRING, user_id STRING, product STRING, amount DECIMAL(10, 2), quantity INT, currency STRING, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

-- The reference table: a file, without a watermark.
CREATE TABLE products (product STRING, name STRING, category STRING, margin DECIMAL(5, 4))
WITH ('connector' = 'filesystem', 'path' = '${IN}/products', 'format' = 'csv');

CREATE TABLE enriched (order_id STRING, category STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/enriched', 'format' = 'json');

INSERT INTO enriched SELECT o.order_id, COALESCE(p.category, 'unknown') FROM orders AS o LEFT JOIN products AS p ON p.product = o.product;

CREATE TABLE best (window_start TIMESTAMP(3), category STRING, total DECIMAL(38, 2))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/best', 'format' = 'json');

INSERT INTO best
SELECT window_start, category, total FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY total DESC, category) AS place FROM (
    SELECT e.window_start, e.window_end, COALESCE(p.category, 'unknown') AS category, SUM(e.amount) AS total
    FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(`time`), INTERVAL '5' MINUTES)) AS e LEFT JOIN products AS p ON p.product = e.product
    WHERE e.amount IS NOT NULL GROUP BY e.window_start, e.window_end, COALESCE(p.category, 'unknown')
  )
) WHERE place <= 2;
