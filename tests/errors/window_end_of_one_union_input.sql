-- The end of a window in one input of the union is a plain time in the other, so the whole is no window, and the counts never final.
CREATE TABLE clicks (page STRING, ts TIMESTAMP(3), until TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');

CREATE VIEW ends AS
SELECT until AS window_end FROM clicks
UNION ALL
SELECT window_end FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE));

CREATE TABLE counts (window_end TIMESTAMP(3), n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'out', 'format' = 'json');

INSERT INTO counts SELECT window_end, COUNT(*) FROM ends GROUP BY window_end;
