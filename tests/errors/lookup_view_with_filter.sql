-- Conditions belong into ON.
CREATE TABLE orders (
  id INT, product STRING, region INT, at TIMESTAMP_LTZ(3), proc_time AS PROCTIME(),
  WATERMARK FOR at AS at - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'orders', 'format' = 'json');

CREATE TABLE dim (product STRING, region INT, category STRING, PRIMARY KEY (product, region) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'dim');

CREATE TABLE out_rows (id INT, category STRING) WITH ('connector' = 'print');

CREATE VIEW shoes AS SELECT * FROM dim FOR SYSTEM_TIME AS OF PROCTIME() WHERE category = 'shoes';
INSERT INTO out_rows SELECT o.id, d.category FROM orders AS o JOIN shoes AS d ON d.product = o.product AND d.region = o.region;
