-- CSV of another house: separator, quotes, comments, a word for NULL.
CREATE TABLE odd (id INT, name STRING, n INT, price DECIMAL(5, 2))
WITH ('connector' = 'filesystem', 'path' = '${IN}/odd', 'format' = 'csv', 'csv.field-delimiter' = ';', 'csv.quote-character' = '''',
      'csv.allow-comments' = 'true', 'csv.null-literal' = 'n/a');

CREATE TABLE plain (id INT, name STRING, n INT, price DECIMAL(5, 2))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/plain', 'format' = 'json');

INSERT INTO plain SELECT * FROM odd;
