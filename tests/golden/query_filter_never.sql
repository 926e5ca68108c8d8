-- A condition that no row meets, as the only use of a table.
CREATE TABLE clicks (id INT, page STRING, country STRING)
WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE orders (order_id STRING, currency STRING)
WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json');

CREATE TABLE nothing (id INT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/nothing', 'format' = 'json');

INSERT INTO nothing SELECT id FROM clicks WHERE page = '/a' AND page = '/b';

CREATE TABLE europe (`text` STRING) WITH ('connector' = 'filesystem', 'path' = '${OUT}/europe', 'format' = 'json');

INSERT INTO europe SELECT order_id FROM orders WHERE currency = 'EUR' UNION ALL SELECT country FROM clicks WHERE FALSE;
