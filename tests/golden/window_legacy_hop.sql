-- HOP in GROUP BY, of an LTZ time.
CREATE TABLE orders (
  order_id STRING, user_id STRING, product STRING, amount DECIMAL(10, 2), quantity INT, currency STRING, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE hops (currency STRING, w_start TIMESTAMP(3), w_end TIMESTAMP(3), n BIGINT, total DECIMAL(38, 2))
WITH ('connector' = 'filesystem', 'path' = '${OUT}/hops', 'format' = 'json');

INSERT INTO hops
SELECT currency, HOP_START(`time`, INTERVAL '2' MINUTE, INTERVAL '6' MINUTE), HOP_END(`time`, INTERVAL '2' MINUTE, INTERVAL '6' MINUTE), COUNT(*), SUM(amount)
FROM orders
GROUP BY currency, HOP(`time`, INTERVAL '2' MINUTE, INTERVAL '6' MINUTE);
