-- One job out of several INSERTs, in the form of today.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE germans (id INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/germans', 'format' = 'json');

CREATE TABLE french (id INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/french', 'format' = 'json');

EXECUTE STATEMENT SET
BEGIN
  INSERT INTO germans SELECT id FROM clicks WHERE country = 'DE';
  INSERT INTO french SELECT id FROM clicks WHERE country = 'FR';
END;
