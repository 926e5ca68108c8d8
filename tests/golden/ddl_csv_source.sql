-- CSV: quotes, commas in quotes, doubled quotes; an empty field of a STRING is an empty string.

CREATE TABLE sensors (
  sensor STRING, place STRING, reading STRING, ok BOOLEAN, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/sensors', 'format' = 'csv');

CREATE TABLE readings (sensor STRING, place STRING, reading DOUBLE, ok BOOLEAN, ts TIMESTAMP(3))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/readings', 'format' = 'json');

INSERT INTO readings SELECT sensor, place, TRY_CAST(reading AS DOUBLE), ok, ts FROM sensors;

CREATE TABLE places (place STRING, n BIGINT, missing BIGINT, PRIMARY KEY (place) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/places', 'format' = 'json');

INSERT INTO places SELECT place, COUNT(*), COUNT(*) FILTER (WHERE reading = '') FROM sensors GROUP BY place;
