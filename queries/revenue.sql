-- What did we sell, each day: in all (`total`, whatever the currency), and in each currency?
--
-- Money is exact. The amount is a decimal from the JSON text on, it is rounded once, to whole cents (half a cent goes
-- up), and cents are added as integers. 19.99 is 1999.

INSERT INTO metrics (metric_key, sort_key, total_revenue, order_count, last_updated)
SELECT
  'revenue#' || DATE_FORMAT(`timestamp`, 'yyyy-MM-dd'),
  'total',
  SUM(CAST(ROUND(data.amount, 2) * 100 AS BIGINT)),
  COUNT(*),
  DATE_FORMAT(MAX(`timestamp`), 'yyyy-MM-dd''T''HH:mm:ss.SSS''Z''')
FROM events
WHERE event_type = 'purchase'
  -- A condition that a row must meet. One that does not is sent to the error output with this reason, and not used by
  -- this query; other queries see it all the same, the archive too.
  AND REQUIRE(data.amount IS NOT NULL, 'purchase without an amount')
GROUP BY DATE_FORMAT(`timestamp`, 'yyyy-MM-dd');

INSERT INTO metrics (metric_key, sort_key, total_revenue, order_count, last_updated)
SELECT
  'revenue#' || DATE_FORMAT(`timestamp`, 'yyyy-MM-dd'),
  COALESCE(NULLIF(data.currency, ''), 'unknown'),
  SUM(CAST(ROUND(data.amount, 2) * 100 AS BIGINT)),
  COUNT(*),
  DATE_FORMAT(MAX(`timestamp`), 'yyyy-MM-dd''T''HH:mm:ss.SSS''Z''')
FROM events
WHERE event_type = 'purchase'
  AND data.amount IS NOT NULL  -- the query above has reported it already
  AND REQUIRE(data.currency IS DISTINCT FROM 'total', 'a currency named total would overwrite the total')
GROUP BY DATE_FORMAT(`timestamp`, 'yyyy-MM-dd'), COALESCE(NULLIF(data.currency, ''), 'unknown');
