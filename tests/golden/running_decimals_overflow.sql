-- A sum that does not fit into 38 digits is NULL, not another number: with 39 digits, and beyond 128 bits.
CREATE TABLE huge (
  k STRING, amount DECIMAL(38, 0), ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/huge', 'format' = 'json');

CREATE TABLE sums (k STRING, n BIGINT, total DECIMAL(38, 0), average DECIMAL(38, 6), once DECIMAL(38, 0), PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/sums', 'format' = 'json');

INSERT INTO sums SELECT k, COUNT(*), SUM(amount), AVG(amount), SUM(DISTINCT amount) FROM huge GROUP BY k;

CREATE TABLE minutes (window_start TIMESTAMP(3), k STRING, total DECIMAL(38, 0))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/minutes', 'format' = 'json');

INSERT INTO minutes
SELECT window_start, k, SUM(amount) FROM TABLE(TUMBLE(TABLE huge, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, k;
