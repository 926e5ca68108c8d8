-- Sums of closed cumulating windows: by both bounds, and by the end alone, which each window has to itself.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE VIEW steps AS
SELECT window_start, window_end, country, COUNT(*) AS n
FROM TABLE(CUMULATE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '5' MINUTES)) GROUP BY window_start, window_end, country;

CREATE TABLE bounds (window_start TIMESTAMP(3), window_end TIMESTAMP(3), n BIGINT, countries BIGINT, PRIMARY KEY (window_start, window_end) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/bounds', 'format' = 'json');

INSERT INTO bounds SELECT window_start, window_end, SUM(n), COUNT(*) FROM steps GROUP BY window_start, window_end;

CREATE TABLE ends (window_end TIMESTAMP(3), n BIGINT, countries BIGINT, PRIMARY KEY (window_end) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/ends', 'format' = 'json');

INSERT INTO ends SELECT window_end, SUM(n), COUNT(*) FROM steps GROUP BY window_end;

CREATE TABLE lasts (country STRING, window_end TIMESTAMP(3), PRIMARY KEY (country, window_end) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/lasts', 'format' = 'json');

INSERT INTO lasts SELECT DISTINCT country, window_end FROM steps;
