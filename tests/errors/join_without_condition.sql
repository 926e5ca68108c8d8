-- Every row with every row of a reference table, by mistake.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), data ROW<code STRING, n INT>, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE out_rows (id INT, page STRING) WITH ('connector' = 'print');

CREATE TABLE pages (page STRING, title STRING) WITH ('connector' = 'filesystem', 'path' = 'pages.csv', 'format' = 'csv');

INSERT INTO out_rows SELECT e.id, p.title FROM events AS e JOIN pages AS p ON e.id > 3;
