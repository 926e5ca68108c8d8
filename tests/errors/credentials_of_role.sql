CREATE TABLE clicks (page STRING) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json',
  'aws.credentials.role.arn' = 'arn:aws:iam::1:role/r', 'aws.credentials.provider' = 'ASSUME_ROLE', 'aws.credentials.role.provider' = 'ASSUME_ROLE');
CREATE TABLE nothing (page STRING) WITH ('connector' = 'blackhole');
INSERT INTO nothing SELECT page FROM clicks;
