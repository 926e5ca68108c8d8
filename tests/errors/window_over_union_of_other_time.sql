-- The watermark of one table of the union is on another column than the one that it gives: its rows would be late by that.
CREATE TABLE clicks (page STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');

CREATE TABLE views (page STRING, begun TIMESTAMP(3), ended TIMESTAMP(3), WATERMARK FOR ended AS ended - INTERVAL '5' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 'views', 'format' = 'json');

CREATE VIEW visits AS SELECT page, begun AS ts FROM views UNION ALL SELECT page, ts FROM clicks;

CREATE TABLE minutes (page STRING, n BIGINT) WITH ('connector' = 'print');

INSERT INTO minutes
SELECT page, COUNT(*) FROM TABLE(TUMBLE(TABLE visits, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, page;
