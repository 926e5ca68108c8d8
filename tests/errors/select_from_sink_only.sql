-- A connector that takes rows gives none.
CREATE TABLE out_rows (id INT, page STRING) WITH ('connector' = 'print');

CREATE TABLE other (id INT, page STRING) WITH ('connector' = 'print');

INSERT INTO other SELECT id, page FROM out_rows;
