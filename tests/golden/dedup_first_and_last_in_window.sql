-- The first and the last click of each user and minute, by time.
CREATE TABLE ordered (
  id INT, page STRING, duration INT, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/ordered', 'format' = 'json');

CREATE TABLE firsts (window_start TIMESTAMP(3), page STRING, id INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/firsts', 'format' = 'json');

INSERT INTO firsts
SELECT window_start, page, id FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end, page ORDER BY ts ASC) AS rn FROM TABLE(TUMBLE(TABLE ordered, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
) WHERE rn = 1;

CREATE TABLE lasts (window_start TIMESTAMP(3), page STRING, id INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/lasts', 'format' = 'json');

INSERT INTO lasts
SELECT window_start, page, id FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end, page ORDER BY ts DESC) AS rn FROM TABLE(TUMBLE(TABLE ordered, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
) WHERE rn = 1;
