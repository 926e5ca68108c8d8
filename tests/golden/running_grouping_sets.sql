-- Totals and parts, always up to date.
CREATE TABLE orders (
  order_id STRING, user_id STRING, product STRING, amount DECIMAL(10, 2), quantity INT, currency STRING, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE totals (kind STRING, currency STRING, n BIGINT, total DECIMAL(38, 2), PRIMARY KEY (kind, currency) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/totals', 'format' = 'json');

INSERT INTO totals
SELECT CASE WHEN GROUPING(currency) = 1 THEN 'all' ELSE 'one' END, COALESCE(currency, '*'), COUNT(*), SUM(amount) FROM orders GROUP BY GROUPING SETS ((currency), ());
