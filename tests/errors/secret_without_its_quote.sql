CREATE TABLE nothing (page STRING) WITH ('connector' = 'blackhole');
INSERT INTO nothing SELECT page FROM clicks;
CREATE TABLE clicks (page STRING) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json',
  'aws.credentials.basic.accesskeyid' = 'id', 'aws.credentials.basic.secretkey = 'TOPSECRET');
