-- DynamoDB has a hash key and a range key, no third.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), data ROW<code STRING, n INT>, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE counts (a STRING, b STRING, c STRING, n BIGINT, PRIMARY KEY (a, b, c) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'counts');

INSERT INTO counts SELECT page, user_id, data.code, COUNT(*) FROM events GROUP BY page, user_id, data.code;
