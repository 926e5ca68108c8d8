-- Every type through JSON and back: edges, missing fields, NULLs; decimals are read exactly and rounded half up.

CREATE TABLE types (
  id INT, t TINYINT, s SMALLINT, i INTEGER, l BIGINT, f FLOAT, d DOUBLE PRECISION, `dec` DECIMAL(10, 2), b BOOLEAN, str VARCHAR(100), bin BYTES,
  `day` DATE, tod TIME, ts TIMESTAMP(3), ltz TIMESTAMP(3) WITH LOCAL TIME ZONE, arr ARRAY<INT>, `map` MAP<STRING, INT>,
  nested ROW<x ROW<y STRING>>
) WITH ('connector' = 'filesystem', 'path' = '${IN}/types', 'format' = 'json');

CREATE TABLE copied (id INT, t TINYINT, s SMALLINT, i INT, l BIGINT, f FLOAT, d DOUBLE, `dec` DECIMAL(10, 2), b BOOLEAN, str STRING, bin BYTES,
  `day` DATE, tod TIME, ts TIMESTAMP(3), ltz TIMESTAMP_LTZ(3), arr ARRAY<INT>, `map` MAP<STRING, INT>, nested ROW<x ROW<y STRING>>)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/copied', 'format' = 'json');

INSERT INTO copied SELECT * FROM types;
