-- Revenue and margin of each category of products, minute by minute: a join of the stream with a reference table.
CREATE TABLE revenue_by_category (
  category      STRING,  -- hash key
  window_start  STRING,  -- range key
  total_revenue BIGINT,  -- in cents
  total_margin  BIGINT,  -- in cents; a product that we do not know has none
  order_count   BIGINT,
  PRIMARY KEY (category, window_start) NOT ENFORCED
) WITH (
  'connector'  = 'dynamodb',
  'table-name' = '${REVENUE_BY_CATEGORY_TABLE:-revenue-by-category}'
);

INSERT INTO revenue_by_category
SELECT
  COALESCE(p.category, 'unknown'),
  DATE_FORMAT(e.window_start, 'yyyy-MM-dd''T''HH:mm:ss.SSS''Z'''),
  SUM(CAST(ROUND(e.data.amount, 2) * 100 AS BIGINT)),
  COALESCE(SUM(CAST(ROUND(ROUND(e.data.amount, 2) * p.margin, 2) * 100 AS BIGINT)), 0),
  COUNT(*)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '1' MINUTE)) AS e
LEFT JOIN products AS p ON p.product = e.data.product_id  -- LEFT: a sale of an unknown product is a sale
WHERE e.event_type = 'purchase'
  AND e.data.amount IS NOT NULL  -- revenue.sql reports these
GROUP BY e.window_start, e.window_end, COALESCE(p.category, 'unknown');
