-- PARTITIONED BY a column that is not there.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), data ROW<code STRING, n INT>, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE files (id INT, page STRING) PARTITIONED BY (day) WITH ('connector' = 'filesystem', 'path' = 'out', 'format' = 'json');

INSERT INTO files SELECT id, page FROM events;
