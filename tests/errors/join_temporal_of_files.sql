-- A reference table is read as it is: the rows that it had at the time of an event are not kept.
CREATE TABLE orders (id INT, product STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 'orders', 'format' = 'json');

CREATE TABLE prices (product STRING, price INT) WITH ('connector' = 'filesystem', 'path' = 'prices', 'format' = 'csv');

CREATE TABLE out_rows (id INT, price INT) WITH ('connector' = 'print');

INSERT INTO out_rows SELECT o.id, p.price FROM orders AS o JOIN prices FOR SYSTEM_TIME AS OF o.ts AS p ON p.product = o.product;
