-- The only condition of a table asks a STRING for a text that its records have as a number, without quotes.
CREATE TABLE clicks (id INT, duration STRING)
WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE long_ones (id INT, duration STRING) WITH ('connector' = 'filesystem', 'path' = '${OUT}/long_ones', 'format' = 'json');

INSERT INTO long_ones SELECT id, duration FROM clicks WHERE duration = '623';
