-- A running count into a sink that takes new rows only.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), data ROW<code STRING, n INT>, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE alerts (subject STRING, message STRING) WITH ('connector' = 'sns', 'topic' = 'alerts');

INSERT INTO alerts SELECT page, CAST(COUNT(*) AS STRING) FROM events GROUP BY page;
