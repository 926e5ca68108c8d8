-- Rows of the statement itself joined with a reference table.
CREATE TABLE products (product STRING, name STRING, category STRING, margin DECIMAL(5, 4))
WITH ('connector' = 'filesystem', 'path' = '${IN}/products', 'format' = 'csv');

CREATE TABLE labels (user_id STRING, label STRING)
WITH ('connector' = 'filesystem', 'path' = '${IN}/labels', 'format' = 'json');

CREATE TABLE chosen (product STRING, name STRING, PRIMARY KEY (product) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/chosen', 'format' = 'json');

INSERT INTO chosen
SELECT v.product, p.name FROM (VALUES ('p0'), ('p3'), ('nothing')) AS v (product) LEFT JOIN products AS p ON p.product = v.product;

CREATE TABLE several (user_id STRING, label STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/several', 'format' = 'json');

INSERT INTO several
SELECT v.user_id, l.label FROM (VALUES ('u1'), ('u5'), ('u2'), (CAST(NULL AS STRING))) AS v (user_id) JOIN labels AS l ON l.user_id = v.user_id;

-- A stream beside them, so that there is more than one epoch.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE first_ids (id INT) WITH ('connector' = 'filesystem', 'path' = '${OUT}/first_ids', 'format' = 'json');

INSERT INTO first_ids SELECT id FROM clicks WHERE id < 30;
