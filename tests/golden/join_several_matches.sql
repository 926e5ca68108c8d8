-- A key that stands twice in the reference table gives two rows; a NULL on either side matches nothing.

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE labels (user_id STRING, label STRING) WITH ('connector' = 'filesystem', 'path' = '${IN}/labels', 'format' = 'json');

CREATE TABLE labelled (id INT, label STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/labelled', 'format' = 'json');

INSERT INTO labelled SELECT c.id, l.label FROM clicks AS c JOIN labels AS l ON c.user_id = l.user_id;

CREATE TABLE counted (label STRING, n BIGINT, users BIGINT, PRIMARY KEY (label) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/counted', 'format' = 'json');

INSERT INTO counted
SELECT COALESCE(l.label, '(none)'), COUNT(*), COUNT(DISTINCT c.user_id) FROM clicks AS c JOIN labels AS l ON l.user_id = c.user_id GROUP BY l.label;
