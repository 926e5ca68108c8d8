-- Rows from the statement itself.
CREATE TABLE fixed (id INT, name STRING, price DECIMAL(5, 2), at_time TIMESTAMP(3))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/fixed', 'format' = 'json');

INSERT INTO fixed VALUES (1, 'one', 1.50, TIMESTAMP '2026-02-12 10:00:00'), (2, 'two', CAST(NULL AS DECIMAL(5, 2)), TIMESTAMP '2026-02-12 10:00:00.125');

INSERT INTO fixed (name, id) VALUES ('three', 3);
