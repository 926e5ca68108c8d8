-- oracle: hand
-- What an INSERT converts between the wall clock and instants goes by the session's zone, as CAST does, below ROW and ARRAY, too.
SET 'table.local-time-zone' = 'Europe/Berlin';

CREATE TABLE days (id INT, k STRING, ts TIMESTAMP_LTZ(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${IN}/days', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE shown (id INT, wall TIMESTAMP(3), instant TIMESTAMP_LTZ(3), walls ARRAY<TIMESTAMP(3)>, nested ROW<wall TIMESTAMP(3), id INT>)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/shown', 'format' = 'json');

INSERT INTO shown SELECT id, ts, CAST(ts AS TIMESTAMP(3)), ARRAY[ts], ROW(ts, id) FROM days;

CREATE TABLE since (id INT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/since', 'format' = 'json');

INSERT INTO since SELECT id FROM days WHERE ts >= TIMESTAMP '2026-02-12 13:00:00' AND ts < '2026-02-13 00:00:00';
