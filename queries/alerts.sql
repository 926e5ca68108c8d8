-- The topic of alerts, which high_value_orders.sql and error_spikes.sql fill.
--
-- `subject` and `message` are the parts of an SNS message. Any other column becomes a message attribute: subscribers
-- filter by it, for example with the policy {"alert_type": ["error_spike"]}.
CREATE TABLE alerts (
  subject    STRING,
  message    STRING,
  alert_type STRING
) WITH (
  'connector' = 'sns',
  'topic'     = '${ALERTS_TOPIC:-analytics-alerts}'
);
