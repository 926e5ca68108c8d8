-- PARTITIONED BY: the columns are folders of the files; the expected rows hold them all the same.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE by_country (id INT, page STRING, country STRING, `minute` STRING) PARTITIONED BY (country, `minute`)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/by_country', 'format' = 'json');

INSERT INTO by_country SELECT id, page, country, DATE_FORMAT(ts, 'HH-mm') FROM clicks;
