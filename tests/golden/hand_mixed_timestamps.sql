-- oracle: hand
-- JSON timestamps in the SQL form and in ISO-8601, with Z, with an offset and without: all read by default (Flink takes one form a table).
CREATE TABLE mixed (id INT, ts TIMESTAMP_LTZ(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${IN}/mixed', 'format' = 'json');

CREATE TABLE mixed_plain (id INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${IN}/mixed', 'format' = 'json');

CREATE TABLE points (id INT, ts TIMESTAMP_LTZ(3))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/points', 'format' = 'json');

INSERT INTO points SELECT id, ts FROM mixed;

CREATE TABLE readings (id INT, ts TIMESTAMP(3))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/readings', 'format' = 'json');

INSERT INTO readings SELECT id, ts FROM mixed_plain;
