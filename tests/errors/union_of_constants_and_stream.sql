CREATE TABLE clicks (k STRING, v BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
CREATE TABLE sums (k STRING, v BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'sums');
INSERT INTO sums
SELECT k, SUM(v) FROM (
  SELECT 'seed' AS k, 0 AS v
  UNION ALL
  SELECT k, v FROM clicks
) GROUP BY k;
