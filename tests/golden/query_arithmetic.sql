-- Integers divide to integers, decimals keep their digits, NULL stays NULL.
CREATE TABLE numbers (id INT, g STRING, i INT, l BIGINT, d DOUBLE, `dec` DECIMAL(12, 4), b BOOLEAN)
WITH ('connector' = 'filesystem', 'path' = '${IN}/numbers', 'format' = 'json');

CREATE TABLE sums (id INT, a INT, b BIGINT, c INT, d INT, e DOUBLE, f DECIMAL(14, 4), g DECIMAL(20, 8), h DECIMAL(20, 6), n INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/sums', 'format' = 'json');

INSERT INTO sums
SELECT id, i + 1, l * 2 - i, i / 2, i % 4, d / 4, `dec` + 1.5, `dec` * `dec`, CAST(`dec` / 3 AS DECIMAL(20, 6)), -i FROM numbers;

CREATE TABLE rounded (id INT, a INT, b DOUBLE, c DECIMAL(12, 4), fl DECIMAL(12, 0), ce DECIMAL(12, 0), r0 DECIMAL(12, 0), r2 DECIMAL(12, 2), rd DOUBLE, t1 DECIMAL(12, 1), s DOUBLE, p DOUBLE, m INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/rounded', 'format' = 'json');

INSERT INTO rounded
SELECT id, ABS(i), ABS(d), ABS(`dec`), FLOOR(`dec`), CEIL(`dec`), ROUND(`dec`), ROUND(`dec`, 2), ROUND(d, 1), TRUNCATE(`dec`, 1), SQRT(ABS(d)), POWER(d, 2), MOD(i, 3) FROM numbers;
