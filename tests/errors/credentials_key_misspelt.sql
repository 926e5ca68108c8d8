CREATE TABLE clicks (page STRING) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json',
  'aws.credentials.provider' = 'PROFILE', 'aws.credentials.profile.nam' = 'far');
CREATE TABLE nothing (page STRING) WITH ('connector' = 'blackhole');
INSERT INTO nothing SELECT page FROM clicks;
