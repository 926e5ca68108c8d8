-- Comments everywhere; what looks like one inside quotes is none.
/* A block
   of two lines; with a semicolon, and an apostrophe: don't */

CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE noted (id INT, t STRING, `a--b` STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/noted', 'format' = 'json'); -- at the end

INSERT INTO noted -- what follows is 'not' a string
SELECT id, /* inside */ '-- no comment; /* neither */', 'it''s' /* ' */
FROM clicks /* */
WHERE id < 4 -- AND FALSE
;
