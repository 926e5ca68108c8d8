-- AVG of integers is an integer, cut towards zero; SUM keeps the type of its column.

CREATE TABLE numbers (id INT, g STRING, i INT, l BIGINT, d DOUBLE, `dec` DECIMAL(12, 4), b BOOLEAN)
WITH ('connector' = 'filesystem', 'path' = '${IN}/numbers', 'format' = 'json');

CREATE TABLE timed (id INT, g STRING, i INT, l BIGINT, d DOUBLE, ts AS TO_TIMESTAMP_LTZ(CAST(id AS BIGINT) * 1000, 3), WATERMARK FOR ts AS ts - INTERVAL '30' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${IN}/numbers', 'format' = 'json');

CREATE TABLE averages (window_start TIMESTAMP(3), a INT, b BIGINT, c DOUBLE, d INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/averages', 'format' = 'json');

INSERT INTO averages SELECT window_start, AVG(i), AVG(l), AVG(d), SUM(i)
FROM TABLE(TUMBLE(TABLE timed, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY window_start, window_end;

CREATE TABLE whole (id INT, a INT, b DOUBLE, n BIGINT, PRIMARY KEY (id) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/whole', 'format' = 'json');

INSERT INTO whole SELECT 0, AVG(i), AVG(d), COUNT(i) FROM numbers;
