-- SET with and without quotes; keys that are only for Flink are accepted.
SET 'pipeline.name' = 'a golden query';
SET parallelism.default = 1;
SET 'table.exec.mini-batch.enabled' = 'false';
SET 'table.exec.state.ttl' = '1 d';
SET 'table.exec.source.idle-timeout' = '30 s';

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE counted (country STRING, n BIGINT, PRIMARY KEY (country) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/counted', 'format' = 'json');

INSERT INTO counted SELECT country, COUNT(*) FROM clicks GROUP BY country;
