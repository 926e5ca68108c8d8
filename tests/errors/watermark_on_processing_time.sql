-- A watermark on the time now: rows that have counted would be late in a repetition.
CREATE TABLE events (
  id INT, page STRING, proc AS PROCTIME(),
  WATERMARK FOR proc AS proc - INTERVAL '5' SECOND
) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');

CREATE TABLE minutes (window_start TIMESTAMP_LTZ(3), n BIGINT) WITH ('connector' = 'print');

INSERT INTO minutes
SELECT window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(proc), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;
