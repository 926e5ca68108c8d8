SET 'pipeline.name' = '..';
CREATE TABLE clicks (page STRING) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
CREATE TABLE nothing (page STRING) WITH ('connector' = 'blackhole');
INSERT INTO nothing SELECT page FROM clicks;
