-- The ten pages that were seen most, each five minutes.
CREATE TABLE top_pages (
  window_start STRING,  -- hash key
  `rank`       BIGINT,  -- range key: 1 is the most viewed
  page         STRING,
  view_count   BIGINT,
  PRIMARY KEY (window_start, `rank`) NOT ENFORCED
) WITH (
  'connector'  = 'dynamodb',
  'table-name' = '${TOP_PAGES_TABLE:-top-pages}'
);

-- A view is a query with a name. It keeps nothing: it becomes a part of the queries that use it.
CREATE VIEW page_views_per_five_minutes AS
SELECT
  window_start,
  window_end,
  COALESCE(NULLIF(data.page, ''), '(none)') AS page,
  COUNT(*) AS view_count
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '5' MINUTES))
WHERE event_type = 'page_view'
GROUP BY window_start, window_end, COALESCE(NULLIF(data.page, ''), '(none)');

INSERT INTO top_pages
SELECT DATE_FORMAT(window_start, 'yyyy-MM-dd''T''HH:mm:ss.SSS''Z'''), place, page, view_count
FROM (
  SELECT
    *,
    -- Pages with equal counts are ordered by name, so that the result does not depend on chance.
    ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY view_count DESC, page ASC) AS place
  FROM page_views_per_five_minutes
)
WHERE place <= 10;
