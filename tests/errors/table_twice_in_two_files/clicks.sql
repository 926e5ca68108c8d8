-- The same name as in source.sql.
CREATE TABLE events (id INT, page STRING) WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
