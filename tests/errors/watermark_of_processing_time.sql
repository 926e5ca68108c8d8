-- The time is the record's, the watermark is not; and datagen knows no times of arrival.
CREATE TABLE events (
  id INT, page STRING, ts TIMESTAMP_LTZ(3),
  WATERMARK FOR ts AS LEAST(ts, NOW() - INTERVAL '5' SECOND)
) WITH ('connector' = 'datagen');

CREATE TABLE out_rows (id INT, page STRING) WITH ('connector' = 'print');

INSERT INTO out_rows SELECT id, page FROM events;
