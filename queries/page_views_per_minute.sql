-- Views and distinct visitors of each page, minute by minute.
CREATE TABLE page_views_per_minute (
  page         STRING,  -- hash key
  window_start STRING,  -- range key: text, because a key in DynamoDB has no type for time
  view_count   BIGINT,
  visitors     BIGINT,
  PRIMARY KEY (page, window_start) NOT ENFORCED
) WITH (
  'connector'  = 'dynamodb',
  'table-name' = '${PAGE_VIEWS_TABLE:-page-views-per-minute}'
);

INSERT INTO page_views_per_minute
SELECT
  COALESCE(NULLIF(data.page, ''), '(none)'),
  DATE_FORMAT(window_start, 'yyyy-MM-dd''T''HH:mm:ss.SSS''Z'''),
  COUNT(*),
  COUNT(DISTINCT data.user_id)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '1' MINUTE))
WHERE event_type = 'page_view'
GROUP BY window_start, window_end, COALESCE(NULLIF(data.page, ''), '(none)');
