-- A header where there is no first record.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), data ROW<code STRING, n INT>, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE lines (id INT, page STRING) WITH ('connector' = 'kinesis', 'stream' = 'lines', 'format' = 'csv', 'csv.header' = 'true');

CREATE TABLE out_rows (id INT, page STRING) WITH ('connector' = 'print');

INSERT INTO out_rows SELECT id, page FROM lines;
