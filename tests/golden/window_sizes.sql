-- Sizes in every unit; a day begins at midnight UTC.

CREATE TABLE orders (
  order_id STRING, user_id STRING, product STRING, amount DECIMAL(10, 2), quantity INT, currency STRING, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE sizes (size STRING, window_start TIMESTAMP(3), window_end TIMESTAMP(3), n BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/sizes', 'format' = 'json');

INSERT INTO sizes SELECT '500 ms', window_start, window_end, COUNT(*) FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(`time`), INTERVAL '0.5' SECOND)) WHERE currency = 'GBP' GROUP BY window_start, window_end;

INSERT INTO sizes SELECT '90 s', window_start, window_end, COUNT(*) FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(`time`), INTERVAL '1:30' MINUTE TO SECOND)) GROUP BY window_start, window_end;

INSERT INTO sizes SELECT '1 h', window_start, window_end, COUNT(*) FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(`time`), INTERVAL '1' HOUR)) GROUP BY window_start, window_end;

INSERT INTO sizes SELECT '1 d', window_start, window_end, COUNT(*) FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(`time`), INTERVAL '1' DAY)) GROUP BY window_start, window_end;

INSERT INTO sizes SELECT '7 min', window_start, window_end, COUNT(*) FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(`time`), INTERVAL '7' MINUTES)) GROUP BY window_start, window_end;
