-- A window function without an aggregate: each row with its windows.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE tumbled (id INT, window_start TIMESTAMP(3), window_end TIMESTAMP(3))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/tumbled', 'format' = 'json');

INSERT INTO tumbled SELECT id, window_start, window_end FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) WHERE id <= 100;

CREATE TABLE hopped (id INT, window_start TIMESTAMP(3), w_time TIMESTAMP(3))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/hopped', 'format' = 'json');

INSERT INTO hopped SELECT id, window_start, CAST(window_time AS TIMESTAMP(3)) FROM TABLE(HOP(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '2' MINUTES)) WHERE id <= 50;

CREATE TABLE cumulated (id INT, window_end TIMESTAMP(3))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/cumulated', 'format' = 'json');

INSERT INTO cumulated SELECT id, window_end FROM TABLE(CUMULATE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '3' MINUTES)) WHERE id <= 50;
