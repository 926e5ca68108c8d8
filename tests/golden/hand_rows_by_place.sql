-- oracle: hand
-- Fields of rows go into a sink by their place, whatever their names are and wherever in a type the rows stand. (Flink does so;
-- the oracle does not run sinks, and shows the query's names.)

CREATE TABLE orders (order_id STRING, product STRING, currency STRING, quantity INT, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE placed (order_id STRING, renamed ARRAY<ROW<sku STRING, quantity INT>>, swapped ARRAY<ROW<currency STRING, product STRING>>,
  unnamed ARRAY<ROW<sku STRING, quantity BIGINT>>, in_row ROW<items ARRAY<ROW<quantity INT, sku STRING>>>, in_map MAP<STRING, ROW<b STRING, a STRING>>,
  plain ROW<currency STRING, product STRING>)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/placed', 'format' = 'json');

INSERT INTO placed
SELECT order_id, CAST(ARRAY[ROW(product, quantity)] AS ARRAY<ROW<sku STRING, qty INT>>), CAST(ARRAY[ROW(product, currency)] AS ARRAY<ROW<product STRING, currency STRING>>),
  ARRAY[ROW(product, quantity)], CAST(ROW(ARRAY[ROW(quantity, product)]) AS ROW<items ARRAY<ROW<sku INT, quantity STRING>>>),
  CAST(MAP['k', ROW(product, currency)] AS MAP<STRING, ROW<a STRING, b STRING>>), CAST(ROW(product, currency) AS ROW<product STRING, currency STRING>)
FROM orders;
