-- A subquery within the reference side of a join is not supported yet.
CREATE TABLE events (id INT, page STRING) WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');
CREATE TABLE pages (page STRING, label STRING) WITH ('connector' = 'filesystem', 'path' = 'pages.jsonl', 'format' = 'json');
CREATE TABLE hidden (page STRING, n INT) WITH ('connector' = 'filesystem', 'path' = 'hidden.jsonl', 'format' = 'json');
CREATE TABLE o (id INT, label STRING) WITH ('connector' = 'print');
INSERT INTO o SELECT e.id, p.label FROM events AS e
JOIN (SELECT page, label FROM pages WHERE page NOT IN (SELECT page FROM hidden WHERE n > 3)) AS p ON e.page = p.page;
