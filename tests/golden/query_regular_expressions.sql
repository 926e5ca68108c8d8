-- Regular expressions; a match anywhere counts.

CREATE TABLE texts (id INT, s STRING, p STRING, n INT)
WITH ('connector' = 'filesystem', 'path' = '${IN}/texts', 'format' = 'json');

CREATE TABLE matched (id INT, has_digit BOOLEAN, whole STRING, grp STRING, replaced STRING, alike BOOLEAN)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/matched', 'format' = 'json');

INSERT INTO matched
SELECT id, REGEXP(s, '[0-9]+'), REGEXP_EXTRACT(s, '[a-z]+'), REGEXP_EXTRACT(s, '([a-z]+)=([a-z0-9]+)', 2), REGEXP_REPLACE(s, '[aeiou]', '.'), s SIMILAR TO '%(a|b)%' FROM texts;
