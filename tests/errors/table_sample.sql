-- A sample of a table would be all of it.
CREATE TABLE events (id INT, page STRING) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE out_rows (id INT) WITH ('connector' = 'print');

INSERT INTO out_rows SELECT id FROM events TABLESAMPLE BERNOULLI (10);
