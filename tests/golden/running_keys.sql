-- Keys of every type, NULLs among them.
CREATE TABLE numbers (id INT, g STRING, i INT, l BIGINT, d DOUBLE, `dec` DECIMAL(12, 4), b BOOLEAN)
WITH ('connector' = 'filesystem', 'path' = '${IN}/numbers', 'format' = 'json');

CREATE TABLE by_flag (b STRING, g STRING, n BIGINT, s BIGINT, PRIMARY KEY (b, g) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/by_flag', 'format' = 'json');

INSERT INTO by_flag
SELECT CASE WHEN b IS NULL THEN 'neither' WHEN b THEN 'yes' ELSE 'no' END, COALESCE(g, '(none)'), COUNT(*), SUM(l) FROM numbers GROUP BY b, g;

CREATE TABLE by_number (i INT, n BIGINT, d DOUBLE, PRIMARY KEY (i) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/by_number', 'format' = 'json');

INSERT INTO by_number SELECT COALESCE(i, 99), COUNT(*), SUM(d) FROM numbers GROUP BY i;

CREATE TABLE by_decimal (tens DECIMAL(12, 0), n BIGINT, lo DECIMAL(12, 4), PRIMARY KEY (tens) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/by_decimal', 'format' = 'json');

INSERT INTO by_decimal SELECT ROUND(`dec` / 1000), COUNT(*), MIN(`dec`) FROM numbers GROUP BY ROUND(`dec` / 1000);
