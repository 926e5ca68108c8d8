-- A message for each minute and error code with many errors, once: when the minute is over.
--
-- TUMBLE puts each event into the minute of its timestamp. A window gives its rows when the watermark passes its end,
-- and only then, so HAVING sees final counts.
INSERT INTO alerts (subject, message, alert_type)
SELECT
  'Error Spike Detected',
  JSON_OBJECT(
    KEY 'error_code'   VALUE COALESCE(NULLIF(data.error_code, ''), 'unknown'),
    KEY 'error_count'  VALUE COUNT(*),
    KEY 'window_start' VALUE DATE_FORMAT(window_start, 'yyyy-MM-dd''T''HH:mm:ss.SSS''Z'''),
    KEY 'window_end'   VALUE DATE_FORMAT(window_end, 'yyyy-MM-dd''T''HH:mm:ss.SSS''Z''')
  ),
  'error_spike'
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`timestamp`), INTERVAL '1' MINUTE))
WHERE event_type = 'error'
GROUP BY window_start, window_end, COALESCE(NULLIF(data.error_code, ''), 'unknown')
HAVING COUNT(*) >= ${ERROR_SPIKE_THRESHOLD:-10};
