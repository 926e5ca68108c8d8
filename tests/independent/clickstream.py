#!/usr/bin/env python3
"""What the shipped job (queries/*.sql) must make of some events, computed without it: plain Python, no dependencies.

    python3 clickstream.py [--products products.csv] SHARD.jsonl [SHARD.jsonl ...] > expected.json

Each file is one shard (a split): its lines are its records, in order. Prints one JSON document: for each table its
items, sorted; the alerts; how many rows the archive holds; what was rejected, by reason; how many rows were late, by query.

Rules, in the words of the design:
* Late, in a window: window end - 1 ms <= (largest timestamp so far in the row's own split) - 5 s, over all records of the
  split that could be decoded, whatever their type. Counted per query, after its WHERE.
* Late, in a running counter: timestamp < (largest timestamp so far in the row's own split) - 5 s - 3 days.
* A counter that no row touches for 3 days of event time is dropped. Its key holds its day, so that is not seen here: it would
  take a key with a pause of 3 days whose next row is itself almost 3 days behind the watermark.
* A record that cannot be decoded is rejected whole: text that is no JSON object (reason "json"), a column of another type
  ("type:<column>"; a number or a boolean is fine for a STRING, and text that is a number for a number), no timestamp that can be read ("timestamp").
* `REQUIRE` rejects a row for its own query only ("require:<reason>").
* Amounts have 18 decimals (more are rounded half up) and at most 20 digits before the point; cents round half up.
"""
import argparse
import csv
import json
import os
import re
import sys
from collections import Counter, defaultdict
from datetime import datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal, getcontext

DELAY_MS, TTL_MS = 5_000, 3 * 86_400_000
MINUTE, FIVE_MINUTES = 60_000, 300_000
HIGH_VALUE, SPIKE, TOP = Decimal(500), 10, 10
TEXT_FIELDS = ["user_id", "page", "referrer", "device", "product_id", "currency", "error_code", "message"]
TIMESTAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
getcontext().prec = 100  # so that nothing is rounded but where it says so


class Rejected(Exception):
    """The reason why a record cannot be decoded."""


class Number(str):
    """A JSON number, as its text."""


def refuse(constant):
    raise ValueError(constant)


def millis(text):
    found = TIMESTAMP.fullmatch(text) if type(text) is str else None
    if not found:
        raise Rejected("timestamp")
    *parts, fraction, zone = found.groups()
    try:
        moment = datetime(*map(int, parts), tzinfo=timezone.utc)
        if zone not in (None, "Z"):
            minutes = int(zone[1:3]) * 60 + int(zone[4:])
            moment -= timedelta(minutes=minutes if zone[0] == "+" else -minutes)
    except (ValueError, OverflowError) as error:
        raise Rejected("timestamp") from error
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + int(((fraction or "") + "000")[:3])


def text(value, column):
    if value is None or type(value) in (str, Number):
        return None if value is None else str(value)
    if type(value) is bool:
        return "true" if value else "false"
    raise Rejected(f"type:{column}")


def amount(value):
    if value is None:
        return None
    # Text that is a number counts as that number, as in Flink.
    if type(value) is str and NUMBER.fullmatch(value.strip()):
        value = Number(value.strip())
    if type(value) is not Number:
        raise Rejected("type:data.amount")
    try:
        number = Decimal(str(value))
        if number.adjusted() < 40:  # else too large, whatever its digits
            number = number.quantize(Decimal("1e-18"), ROUND_HALF_UP)
    except ArithmeticError as error:  # an exponent beyond all bounds
        raise Rejected("type:data.amount") from error
    if abs(number) >= 10**20:
        raise Rejected("type:data.amount")
    return number


def decode(line):
    """A record as a flat dict of the columns of `events`; `timestamp` in milliseconds."""
    try:
        event = json.loads(line.decode("utf-8"), parse_int=Number, parse_float=Number, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Rejected("json") from error
    if type(event) is not dict:
        raise Rejected("json")
    data = event.get("data")
    if data is None:
        data = {}
    elif type(data) is not dict:
        raise Rejected("type:data")
    row = {name: text(data.get(name), f"data.{name}") for name in TEXT_FIELDS}
    row["amount"] = amount(data.get("amount"))
    row["event_id"] = text(event.get("event_id"), "event_id")
    row["event_type"] = text(event.get("event_type"), "event_type")
    row["timestamp"] = millis(event.get("timestamp"))
    return row


def rfc3339(ms):
    moment = EPOCH + timedelta(milliseconds=ms)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def cents(value):
    """Whole cents, half a cent away from zero; exact whatever the size."""
    return int(value.quantize(Decimal("0.01"), ROUND_HALF_UP) * 100)


def run(shards, products):
    rejected, late = Counter(), Counter()
    archive_rows = 0
    views, revenue, errors = defaultdict(lambda: [0, 0]), defaultdict(lambda: [0, 0, 0]), {}
    minute_views, minute_errors, five_minutes = defaultdict(lambda: [0, set()]), Counter(), Counter()
    categories, alerts = defaultdict(lambda: [0, 0, 0]), []

    for shard in shards:
        largest = None  # largest timestamp so far in this split
        for line in open(shard, "rb"):
            line = line.rstrip(b"\r\n")
            if not line:
                continue
            try:
                row = decode(line)
            except Rejected as why:
                rejected[str(why)] += 1
                continue
            archive_rows += 1
            ts, kind = row["timestamp"], row["event_type"]
            watermark = None if largest is None else largest - DELAY_MS
            largest = ts if largest is None else max(largest, ts)
            day = rfc3339(ts)[:10]

            def window(query, size):
                """Start of the row's window, or None (and counted) when it is late."""
                start = ts - ts % size
                if watermark is not None and start + size - 1 <= watermark:
                    late[query] += 1
                    return None
                return start

            def running(query):
                if watermark is not None and ts < watermark - TTL_MS:
                    late[query] += 1
                    return False
                return True

            if kind == "page_view":
                page = row["page"] or "(none)"
                if running("page_views"):
                    item = views[f"pageviews#{day}", page]
                    item[0], item[1] = item[0] + 1, max(item[1], ts)
                if (start := window("page_views_per_minute", MINUTE)) is not None:
                    item = minute_views[page, start]
                    item[0] += 1
                    if row["user_id"] is not None:
                        item[1].add(row["user_id"])
                if (start := window("top_pages", FIVE_MINUTES)) is not None:
                    five_minutes[start, page] += 1
            elif kind == "purchase":
                if row["amount"] is None:
                    rejected["require:purchase without an amount"] += 1
                    continue
                value = cents(row["amount"])
                keys = {"revenue": "total", "revenue_by_currency": row["currency"] or "unknown"}
                if row["currency"] == "total":
                    rejected["require:a currency named total would overwrite the total"] += 1
                    del keys["revenue_by_currency"]
                for query, key in keys.items():
                    if running(query):
                        item = revenue[f"revenue#{day}", key]
                        item[0], item[1], item[2] = item[0] + value, item[1] + 1, max(item[2], ts)
                if row["amount"] > HIGH_VALUE:
                    alerts.append({"subject": "High-Value Order Detected", "message": {
                        "order_amount": row["amount"], "user_id": row["user_id"], "product_id": row["product_id"],
                        "timestamp": rfc3339(ts)}, "attributes": {"alert_type": "high_value_order"}})
                if (start := window("revenue_by_category", MINUTE)) is not None:
                    category, margin = products.get(row["product_id"], ("unknown", None))
                    item = categories[category, start]
                    item[0], item[2] = item[0] + value, item[2] + 1
                    item[1] += 0 if margin is None else cents(Decimal(value) / 100 * margin)
            elif kind == "error":
                code = row["error_code"] or "unknown"
                if running("errors"):
                    item = errors.setdefault((f"errors#{day}#{rfc3339(ts)[11:13]}", code), [0, 0, None, ""])
                    item[0], item[1] = item[0] + 1, max(item[1], ts)
                    order = (ts, row["event_id"] or "")
                    if item[2] is None or order > item[2]:
                        item[2], item[3] = order, (row["message"] or "")[:500]
                if (start := window("error_spikes", MINUTE)) is not None:
                    minute_errors[start, code] += 1

    for (start, code), count in minute_errors.items():
        if count >= SPIKE:
            alerts.append({"subject": "Error Spike Detected", "message": {
                "error_code": code, "error_count": count, "window_start": rfc3339(start),
                "window_end": rfc3339(start + MINUTE)}, "attributes": {"alert_type": "error_spike"}})
    metrics = [{"metric_key": k, "sort_key": s, "view_count": n, "last_updated": rfc3339(t)} for (k, s), (n, t) in views.items()]
    metrics += [{"metric_key": k, "sort_key": s, "total_revenue": c, "order_count": n, "last_updated": rfc3339(t)}
                for (k, s), (c, n, t) in revenue.items()]
    metrics += [{"metric_key": k, "sort_key": s, "error_count": n, "last_updated": rfc3339(t), "last_message": m}
                for (k, s), (n, t, _, m) in errors.items()]
    top = []
    for start in sorted({start for start, _ in five_minutes}):
        pages = sorted(((-n, page) for (s, page), n in five_minutes.items() if s == start))
        top += [{"window_start": rfc3339(start), "rank": rank, "page": page, "view_count": -n}
                for rank, (n, page) in enumerate(pages[:TOP], 1)]
    return {
        "analytics-metrics": sorted(metrics, key=lambda i: (i["metric_key"], i["sort_key"])),
        "page-views-per-minute": [{"page": p, "window_start": rfc3339(s), "view_count": n, "visitors": len(v)}
                                  for (p, s), (n, v) in sorted(minute_views.items())],
        "top-pages": top,
        "revenue-by-category": [{"category": c, "window_start": rfc3339(s), "total_revenue": r, "total_margin": m, "order_count": n}
                                for (c, s), (r, m, n) in sorted(categories.items())],
        "alerts": sorted(alerts, key=dump),
        "archive_rows": archive_rows,
        "rejected": dict(sorted(rejected.items())),
        "late": dict(sorted(late.items())),
    }


def dump(value):
    """JSON with decimals as exact numbers, without zeros at their end."""
    if isinstance(value, Decimal):
        plain = f"{value:f}"
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{dump(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="+", help="JSON lines; each file is one shard")
    parser.add_argument("--products", default=os.path.join(here, "..", "..", "queries", "products.csv"))
    args = parser.parse_args()
    with open(args.products, newline="", encoding="utf-8") as file:
        products = {product: (category, Decimal(margin)) for product, category, margin in csv.reader(file)}
    result = run(args.shards, products)
    print("{")
    for number, (name, value) in enumerate(result.items()):
        end = "," if number + 1 < len(result) else ""
        if isinstance(value, list):  # an item a line, so that a difference is a line
            print(f"{json.dumps(name)}: [")
            print(",\n".join(map(dump, value)))
            print(f"]{end}")
        else:
            print(f"{json.dumps(name)}: {dump(value)}{end}")
    print("}")


if __name__ == "__main__":
    sys.exit(main())
