-- Text: characters count, not bytes; positions start at 1.

CREATE TABLE texts (id INT, s STRING, p STRING, n INT)
WITH ('connector' = 'filesystem', 'path' = '${IN}/texts', 'format' = 'json');

CREATE TABLE a (id INT, up STRING, low STRING, len INT, trimmed STRING, rev STRING, rep STRING, cat STRING, pos INT, sub3 STRING, sub23 STRING, last2 STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/a', 'format' = 'json');

INSERT INTO a
SELECT id, UPPER(s), LOWER(s), CHAR_LENGTH(s), TRIM(s), REVERSE(s), REPLACE(s, 'a', 'A'), s || '|' || p, POSITION(p IN s), SUBSTRING(s, 3), SUBSTRING(s FROM 2 FOR 3), SUBSTR(s, -2) FROM texts;

CREATE TABLE b (id INT, l STRING, r STRING, lp STRING, rp STRING, con STRING, ws STRING, ini STRING, rpt STRING, ins INT, loc INT, spl STRING, lt STRING, ov STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/b', 'format' = 'json');

INSERT INTO b
SELECT id, `LEFT`(s, 3), `RIGHT`(s, 3), LPAD(s, 6, '*'), RPAD(s, 6, '*'), CONCAT(s, p), CONCAT_WS('-', s, p, 'x'), INITCAP(s), REPEAT(p, n), INSTR(s, 'o'), LOCATE('a', s), SPLIT_INDEX(s, ',', 1), LTRIM(s), OVERLAY(s PLACING 'X' FROM 2 FOR 1) FROM texts;
