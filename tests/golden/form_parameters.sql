-- ${NAME:-default}: in strings and as numbers.
CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE chosen (id INT, label STRING, duration INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/chosen', 'format' = 'json');

INSERT INTO chosen SELECT id, '${LABEL:-long}-${SUFFIX:-}x', duration FROM clicks WHERE duration > ${MINIMUM:-950} AND country = '${COUNTRY:-DE}';
