-- A message for each large order, as soon as it is seen. No state, no window: one row in, at most one row out.
INSERT INTO alerts (subject, message, alert_type)
SELECT
  'High-Value Order Detected',
  JSON_OBJECT(
    KEY 'order_amount' VALUE data.amount,  -- a decimal stays exact in JSON
    KEY 'user_id'      VALUE data.user_id,
    KEY 'product_id'   VALUE data.product_id,
    KEY 'timestamp'    VALUE DATE_FORMAT(`timestamp`, 'yyyy-MM-dd''T''HH:mm:ss.SSS''Z''')
  ),
  'high_value_order'
FROM events
WHERE event_type = 'purchase'
  AND data.amount > ${HIGH_VALUE_THRESHOLD:-500};
