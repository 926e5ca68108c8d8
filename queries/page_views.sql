-- How often was each page seen, each day?
--
-- A GROUP BY without a window is a running count: the item is written again, with the new number, whenever it changed.
INSERT INTO metrics (metric_key, sort_key, view_count, last_updated)
SELECT
  'pageviews#' || DATE_FORMAT(`timestamp`, 'yyyy-MM-dd'),
  COALESCE(NULLIF(data.page, ''), '(none)'),  -- a key in DynamoDB can be neither NULL nor empty
  COUNT(*),
  DATE_FORMAT(MAX(`timestamp`), 'yyyy-MM-dd''T''HH:mm:ss.SSS''Z''')
FROM events
WHERE event_type = 'page_view'
GROUP BY DATE_FORMAT(`timestamp`, 'yyyy-MM-dd'), COALESCE(NULLIF(data.page, ''), '(none)');
