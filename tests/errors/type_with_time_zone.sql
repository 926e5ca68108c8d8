-- Flink has no TIMESTAMP WITH TIME ZONE either.
CREATE TABLE events (id INT, ts TIMESTAMP(3) WITH TIME ZONE) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE out_rows (id INT) WITH ('connector' = 'print');

INSERT INTO out_rows SELECT id FROM events;
