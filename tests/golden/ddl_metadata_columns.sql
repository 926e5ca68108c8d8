-- shards: 1
-- Where a record comes from. VIRTUAL: read, not written.
CREATE TABLE clicks (
  id INT, file_name STRING METADATA FROM 'file.name' VIRTUAL, `file.size` BIGINT METADATA VIRTUAL, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE per_file (file_name STRING, some_bytes BOOLEAN, n BIGINT, PRIMARY KEY (file_name) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/per_file', 'format' = 'json');

INSERT INTO per_file SELECT file_name, MIN(`file.size`) > 1000, COUNT(*) FROM clicks WHERE id > 100 GROUP BY file_name;
