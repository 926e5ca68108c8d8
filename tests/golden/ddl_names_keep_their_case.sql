-- Identifiers are case-sensitive, keywords and function names are not. Reserved words and blanks need back-quotes.
create table `Names` (
  id int, `ID` int, `Id` string, `timestamp` timestamp_ltz(3), `value` bigint, `order` string, `my col` double, `user` row<`Name` string, name int>, `year` int,
  watermark for `timestamp` as `timestamp` - interval '5' second
) with ('connector' = 'filesystem', 'path' = '${IN}/names', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE copied (id INT, `ID` INT, `Id` STRING, `timestamp` TIMESTAMP_LTZ(3), `select` BIGINT, `order` STRING, `my col` DOUBLE, `Name` STRING, name INT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/copied', 'format' = 'json');

INSERT INTO copied SELECT id, ID, Id, `timestamp`, `value`, `order`, `my col`, `user`.`Name`, `user`.name FROM Names;

CREATE TABLE grouped (`order` STRING, `Id` STRING, `window_start` TIMESTAMP(3), `sum` BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/grouped', 'format' = 'json');

INSERT INTO grouped
SELECT `order`, `Names`.`Id`, window_start, sum(`value`) AS `sum`
FROM Table(Tumble(table `Names`, descriptor(`timestamp`), interval '5' minute))  AS `Names`
GROUP BY window_start, window_end, `order`, Id;
