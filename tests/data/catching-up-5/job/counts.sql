CREATE TABLE counts (event_type STRING, events BIGINT, PRIMARY KEY (event_type) NOT ENFORCED)
WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
INSERT INTO counts SELECT event_type, COUNT(*) FROM events GROUP BY event_type;
