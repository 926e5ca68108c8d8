-- The time now under another name.
CREATE TABLE events (
  id INT, page STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE VIEW timed AS SELECT page, CURRENT_TIMESTAMP AS seen FROM events WHERE id > 3;

CREATE TABLE minutes (window_start TIMESTAMP_LTZ(3), n BIGINT) WITH ('connector' = 'print');

INSERT INTO minutes
SELECT window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE timed, DESCRIPTOR(seen), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
