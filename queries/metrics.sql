-- The table of running counters, which several queries of this folder fill.
--
-- Each query writes its own kind of item, and of an item only the columns that its INSERT names: the others stay as
-- they are. `metric_key` says what is counted and for which day, `sort_key` which one of them:
--
--   pageviews#2026-02-12   /shop/page-0001.html   view_count                  (page_views.sql)
--   revenue#2026-02-12     total, EUR, USD, …     total_revenue, order_count  (revenue.sql)
--   errors#2026-02-12#10   500                    error_count, last_message   (errors.sql)
CREATE TABLE metrics (
  metric_key    STRING,  -- hash key
  sort_key      STRING,  -- range key
  view_count    BIGINT,
  total_revenue BIGINT,  -- in cents
  order_count   BIGINT,
  error_count   BIGINT,
  last_message  STRING,
  last_updated  STRING,  -- the largest timestamp of the events that were counted
  PRIMARY KEY (metric_key, sort_key) NOT ENFORCED
) WITH (
  'connector'  = 'dynamodb',
  'table-name' = '${METRICS_TABLE:-analytics-metrics}'
);

-- A counter without a window would be kept for ever. The day is part of each key above, so a counter is finished soon
-- after its day: events are late after 3 days (of event time), and a counter that none has touched for a day more is forgotten.
SET 'table.exec.state.ttl' = '3 d';
