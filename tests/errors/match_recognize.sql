-- MATCH_RECOGNIZE is not supported.
CREATE TABLE events (
  id INT, page STRING, user_id STRING, amount DECIMAL(10, 2), data ROW<code STRING, n INT>, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE out_rows (id INT, page STRING) WITH ('connector' = 'print');

INSERT INTO out_rows
SELECT id, page FROM events MATCH_RECOGNIZE (
  PARTITION BY user_id ORDER BY ts MEASURES A.id AS id, B.page AS page
  AFTER MATCH SKIP PAST LAST ROW PATTERN (A B) DEFINE A AS A.page = '/', B AS B.page = '/a'
);
