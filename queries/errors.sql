-- How many errors of each code, each hour, and what did the latest one say?
INSERT INTO metrics (metric_key, sort_key, error_count, last_updated, last_message)
SELECT
  'errors#' || DATE_FORMAT(`timestamp`, 'yyyy-MM-dd''#''HH'),
  COALESCE(NULLIF(data.error_code, ''), 'unknown'),
  COUNT(*),
  DATE_FORMAT(MAX(`timestamp`), 'yyyy-MM-dd''T''HH:mm:ss.SSS''Z'''),
  -- The latest by the event's own time, and where two have the same, by its id: so the answer is the same whatever the
  -- order in which the events arrived. 500 characters (not bytes) of it.
  LAST_VALUE(SUBSTRING(COALESCE(data.message, ''), 1, 500) ORDER BY `timestamp`, event_id)
FROM events
WHERE event_type = 'error'
GROUP BY DATE_FORMAT(`timestamp`, 'yyyy-MM-dd''#''HH'), COALESCE(NULLIF(data.error_code, ''), 'unknown');
