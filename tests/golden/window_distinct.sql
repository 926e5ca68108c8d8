-- SELECT DISTINCT within windows.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE seen (window_start TIMESTAMP(3), window_end TIMESTAMP(3), page STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/seen', 'format' = 'json');

INSERT INTO seen SELECT DISTINCT window_start, window_end, page FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '30' SECOND));
