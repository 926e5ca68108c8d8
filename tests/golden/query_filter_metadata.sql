-- shards: 1
-- The only condition of a table asks where a record comes from, which no record has in its bytes.
CREATE TABLE clicks (id INT, file_name STRING METADATA FROM 'file.name' VIRTUAL)
WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE of_file (id INT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/of_file', 'format' = 'json');

INSERT INTO of_file SELECT id FROM clicks WHERE file_name = 'clicks.jsonl';
