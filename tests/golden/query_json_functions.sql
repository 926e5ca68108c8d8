-- JSON in a string.
CREATE TABLE texts (id INT, s STRING, p STRING, n INT)
WITH ('connector' = 'filesystem', 'path' = '${IN}/texts', 'format' = 'json');

CREATE TABLE taken (id INT, n STRING, num DOUBLE, deep STRING, obj STRING, ok BOOLEAN, absent STRING, dflt STRING, here BOOLEAN)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/taken', 'format' = 'json');

INSERT INTO taken
SELECT id, JSON_VALUE(s, '$.n'), JSON_VALUE(s, '$.n' RETURNING DOUBLE), JSON_VALUE(s, '$.a.b[2].c'), JSON_QUERY(s, '$.a.b'), JSON_EXISTS(s, '$.a'),
  JSON_VALUE(s, '$.missing'), JSON_VALUE(s, '$.missing' DEFAULT 'd' ON EMPTY), s IS JSON FROM texts;
