-- A window over a union of two tables, of which one has no watermark: it would hold back the time of both for ever.
CREATE TABLE clicks (page STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');

CREATE TABLE views (page STRING, ts TIMESTAMP(3)) WITH ('connector' = 'kinesis', 'stream' = 'views', 'format' = 'json');

CREATE TABLE minutes (page STRING, n BIGINT) WITH ('connector' = 'print');

INSERT INTO minutes
SELECT page, COUNT(*)
FROM TABLE(TUMBLE(TABLE (SELECT page, ts FROM clicks UNION ALL SELECT page, ts FROM views), DESCRIPTOR(ts), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, page;
