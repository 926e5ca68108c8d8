-- USING: the column that both sides have stands once.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE labels (user_id STRING, label STRING) WITH ('connector' = 'filesystem', 'path' = '${IN}/labels', 'format' = 'json');

CREATE TABLE labelled (user_id STRING, id INT, label STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/labelled', 'format' = 'json');

INSERT INTO labelled SELECT user_id, id, label FROM clicks JOIN labels USING (user_id);
