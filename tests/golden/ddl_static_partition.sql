-- A value for a partition column in the INSERT itself.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE parts (id INT, kind STRING, country STRING) PARTITIONED BY (kind, country)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/parts', 'format' = 'json');

INSERT INTO parts PARTITION (kind = 'long', country = 'DE') SELECT id FROM clicks WHERE duration > 900 AND country = 'DE';

INSERT INTO parts PARTITION (kind = 'short') SELECT id, country FROM clicks WHERE duration < 50;
