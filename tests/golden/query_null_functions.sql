-- What to put where nothing is.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE numbers (id INT, g STRING, i INT, l BIGINT, d DOUBLE, `dec` DECIMAL(12, 4), b BOOLEAN)
WITH ('connector' = 'filesystem', 'path' = '${IN}/numbers', 'format' = 'json');

CREATE TABLE a (id INT, page STRING, no_root STRING, cond STRING, x STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/a', 'format' = 'json');

INSERT INTO a SELECT id, COALESCE(page, user_id, 'none'), NULLIF(page, '/'), IF(duration > 500, 'long', 'short'), IFNULL(page, '?') FROM clicks;

CREATE TABLE b (id INT, g INT, l INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/b', 'format' = 'json');

INSERT INTO b SELECT id, GREATEST(i, 0, CAST(l AS INT) % 5), LEAST(i, 3) FROM numbers;
