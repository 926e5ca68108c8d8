-- BIT_XOR has no DISTINCT with GROUP BY.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), data ROW<code STRING, n INT>, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE bits (page STRING, bits INT, PRIMARY KEY (page) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'bits');

INSERT INTO bits SELECT page, BIT_XOR(DISTINCT id) FROM events GROUP BY page;
