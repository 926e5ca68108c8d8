-- CAST and TRY_CAST.
CREATE TABLE texts (id INT, s STRING, p STRING, n INT)
WITH ('connector' = 'filesystem', 'path' = '${IN}/texts', 'format' = 'json');

CREATE TABLE numbers (id INT, g STRING, i INT, l BIGINT, d DOUBLE, `dec` DECIMAL(12, 4), b BOOLEAN)
WITH ('connector' = 'filesystem', 'path' = '${IN}/numbers', 'format' = 'json');

CREATE TABLE tried (id INT, i INT, d DOUBLE, `dec` DECIMAL(6, 2), b BOOLEAN, ts TIMESTAMP(3), dt DATE)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/tried', 'format' = 'json');

INSERT INTO tried
SELECT id, TRY_CAST(s AS INT), TRY_CAST(s AS DOUBLE), TRY_CAST(s AS DECIMAL(6, 2)), TRY_CAST(s AS BOOLEAN), TRY_CAST(s AS TIMESTAMP(3)), TRY_CAST(s AS DATE) FROM texts;

CREATE TABLE cast_numbers (id INT, from_double INT, from_decimal INT, `dec` DECIMAL(10, 1), big BIGINT, as_text STRING, b_text STRING, b_int INT, d_text STRING, i_double DOUBLE)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/cast_numbers', 'format' = 'json');

INSERT INTO cast_numbers
SELECT id, CAST(d AS INT), CAST(`dec` AS INT), CAST(`dec` AS DECIMAL(10, 1)), CAST(i AS BIGINT), CAST(`dec` AS STRING), CAST(b AS STRING), CAST(b AS INT), CAST(d AS STRING), CAST(i AS DOUBLE) FROM numbers;
