-- A hint after the table changes its options: here the file, which the table's own path has wrong.
CREATE TABLE clicks (id INT, page STRING)
WITH ('connector' = 'filesystem', 'path' = '${IN}/nowhere', 'format' = 'json');

CREATE TABLE few (id INT, page STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/few', 'format' = 'json');

INSERT INTO few SELECT id, page FROM clicks /*+ OPTIONS('path' = '${IN}/clicks') */ WHERE id < 9;

INSERT INTO few SELECT id + 1000, page FROM clicks /*+ OPTIONS('path'='${IN}/ordered', 'json.ignore-parse-errors'='true') */ AS c WHERE c.id < 9;
