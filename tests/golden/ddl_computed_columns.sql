-- Computed columns: from physical ones, and used like them.
CREATE TABLE orders (
  order_id STRING, amount DECIMAL(10, 2), quantity INT, `time` TIMESTAMP_LTZ(3),
  cents AS CAST(amount * 100 AS BIGINT),
  item_price AS CAST(amount / quantity AS DECIMAL(10, 4)),
  order_day AS DATE_FORMAT(`time`, 'yyyy-MM-dd'),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');

CREATE TABLE priced (order_id STRING, cents BIGINT, item_price DECIMAL(10, 4), order_day STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/priced', 'format' = 'json');

INSERT INTO priced SELECT order_id, cents, item_price, order_day FROM orders;

CREATE TABLE per_day (order_day STRING, cents BIGINT, PRIMARY KEY (order_day) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/per_day', 'format' = 'json');

INSERT INTO per_day SELECT order_day, SUM(cents) FROM orders GROUP BY order_day;

-- By what is no column where it stands: a unit of time, a name behind brackets.
CREATE TABLE clicks (
  id INT, ts TIMESTAMP(3),
  elapsed AS TIMESTAMPDIFF(SECOND, TIMESTAMP '2026-02-12 10:00:00', ts),
  due AS TIMESTAMPADD(MINUTE, 90, ts)
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');

CREATE TABLE timed (id INT, elapsed INT, due STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/timed', 'format' = 'json');

INSERT INTO timed SELECT id, elapsed, DATE_FORMAT(due, 'HH:mm:ss') FROM clicks WHERE elapsed >= 5;

CREATE TABLE events (
  event_id STRING, data ROW<page STRING, tags ARRAY<STRING>, attributes MAP<STRING, STRING>>,
  first_tag AS data.tags[1],
  coupon AS data.attributes['coupon']
) WITH ('connector' = 'filesystem', 'path' = '${IN}/events', 'format' = 'json');

CREATE TABLE tagged (event_id STRING, first_tag STRING, coupon STRING)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/tagged', 'format' = 'json');

INSERT INTO tagged SELECT event_id, first_tag, coupon FROM events WHERE first_tag IS NOT NULL OR coupon IS NOT NULL;
