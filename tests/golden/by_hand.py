"""The expected rows of the goldens that Flink cannot judge, each in a few lines of plain Python.

A function for each file that says `-- oracle: hand`, of the same name: {sink: rows}. A row is a dict; a Decimal is written
as an exact number, "__op" is added as +I.
"""
import csv
import json
import os
import struct
from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce
from itertools import groupby
from math import fsum
from operator import or_
from statistics import median

INPUTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "inputs")


def rows(folder):
    with open(os.path.join(INPUTS, folder, f"{folder}.jsonl"), encoding="utf-8") as file:
        return [json.loads(text, parse_float=Decimal) for text in file]


def products():
    with open(os.path.join(INPUTS, "products", "products.csv"), encoding="utf-8") as file:
        return {product: category for product, _, category, _ in csv.reader(file)}


def line(row):
    members = []
    for name, value in {**row, "__op": "+I"}.items():
        members.append(f"{json.dumps(name)}:{value if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)}")
    return "{" + ",".join(members) + "}"


def window(text, minutes):
    """The start of a row's tumbling window, as the JSON format writes it."""
    time = datetime.strptime(text.replace("T", " ").rstrip("Z"), "%Y-%m-%d %H:%M:%S.%f")
    start = time - timedelta(minutes=time.minute % minutes, seconds=time.second, microseconds=time.microsecond)
    return start.strftime("%Y-%m-%d %H:%M:%S")


def grouped(items, key):
    return [(k, list(g)) for k, g in groupby(sorted(items, key=key), key)]


def hand_mixed_timestamps():
    texts = ["2026-02-12 10:00:00", "2026-02-12 10:00:01", "2026-02-12 10:00:02", "2026-02-12 10:00:03", "2026-02-12 10:00:04.5",
             "2026-02-12 10:00:05.123", "2026-02-12 10:00:06.007", "2026-02-12 10:00:07.89"]
    return {"points": [{"id": i + 1, "ts": t + "Z"} for i, t in enumerate(texts)],
            "readings": [{"id": i + 1, "ts": t} for i, t in enumerate(texts)]}


def hand_require():
    orders = rows("orders")
    good = [o for o in orders if o["amount"] is not None]
    return {"priced": [{"order_id": o["order_id"], "amount": o["amount"]} for o in good if o["currency"] == "EUR" and o["amount"] > 50],
            "all_orders": [{"order_id": o["order_id"]} for o in orders],
            "totals": [{"currency": c, "total": sum(o["amount"] for o in g), "n": len(g)} for c, g in grouped(good, lambda o: o["currency"])]}


def hand_last_value_ordered():
    clicks, per_country, per_minute = rows("clicks"), [], []
    for country, group in grouped(clicks, lambda c: c["country"]):
        by_time = sorted(group, key=lambda c: (c["ts"], c["id"]))
        longest = max(group, key=lambda c: (c["duration"] or 0, c["id"]))
        per_country.append({"country": country, "first_id": by_time[0]["id"], "last_id": by_time[-1]["id"], "longest": longest["id"]})
    for (start, country), group in grouped(clicks, lambda c: (window(c["ts"], 1), c["country"])):
        last = max(group, key=lambda c: (c["ts"], c["id"]))
        per_minute.append({"window_start": start, "country": country, "n": len(group), "last_id": last["id"]})
    return {"per_country": per_country, "per_minute": per_minute}


def hand_datafusion_aggregates():
    numbers, lists = [], []
    for start, group in grouped(rows("clicks"), lambda c: window(c["ts"], 1)):
        durations = [c["duration"] for c in group if c["duration"] is not None]
        numbers.append({
            "window_start": start, "middle": float(median(c["score"] for c in group if c["score"] is not None)),
            "users": len({c["user_id"] for c in group if "user_id" in c}), "all_long": all(d > 10 for d in durations),
            "any_long": any(d > 900 for d in durations), "bits": reduce(or_, durations)})
        pages = [c["page"] for c in sorted(group, key=lambda c: c["id"]) if c["page"] is not None]
        lists.append({"window_start": start, "pages": ",".join(pages)})
    return {"numbers": numbers, "lists": lists}


def hand_percentiles():
    def share(values, at):
        values = sorted(float(value) for value in values)
        below, part = divmod(at * (len(values) - 1), 1)
        below = int(below)
        return values[below] + part * (values[min(below + 1, len(values) - 1)] - values[below])
    scores = lambda group: [float(c["score"]) for c in group if c["score"] is not None]
    in_order = lambda group: sorted(group, key=lambda c: c["id"])
    listed = lambda group: {"third": in_order(group)[2]["id"], "pages": "|".join(c["page"] for c in in_order(group) if c["page"] is not None)}
    windows, lists, running, running_lists = [], [], [], []
    for start, group in grouped(rows("clicks"), lambda c: window(c["ts"], 1)):
        own = scores(group)
        windows.append({"window_start": start, "quarter": share(own, 0.25), "least": min(own), "most": max(own), "weighed": max(own)})
        lists.append({"window_start": start, **listed(group)})
    for country, group in grouped(rows("clicks"), lambda c: c["country"]):
        running.append({"country": country, "middle": share(scores(group), 0.5), "most": max(scores(group))})
        running_lists.append({"country": country, **listed(group)})
    return {"windows": windows, "lists": lists, "running": running, "running_lists": running_lists}


def hand_count_distinct_pairs():
    pairs = lambda group, *names: len({tuple(c[n] for n in names) for c in group if all(c.get(n) is not None for n in names)})
    windows, beside, running = [], [], []
    # All zeros are one.
    clicks = [{**c, "zero": None if c["score"] is None else 0} for c in rows("clicks")]
    for start, group in grouped(clicks, lambda c: window(c["ts"], 2)):
        visits = pairs(group, "user_id", "page")
        windows.append({"window_start": start, "n": len(group), "visits": visits})
        german = pairs([c for c in group if c["country"] == "DE"], "user_id", "page")
        beside.append({"window_start": start, "visits": visits, "users": pairs(group, "user_id"), "zeros": pairs(group, "page", "zero"), "german": german})
    for country, group in grouped(clicks, lambda c: c["country"]):
        running.append({"country": country, "visits": pairs(group, "user_id", "page"), "zeros": pairs(group, "page", "zero")})
    return {"windows": windows, "beside": beside, "running": running}


def hand_left_join_append():
    category, orders, best = products(), rows("orders"), []
    for order in orders:
        order["category"] = category.get(order["product"], "unknown")
    priced = [o for o in orders if o["amount"] is not None]
    for start, group in grouped(priced, lambda o: window(o["time"], 5)):
        totals = [(-sum(o["amount"] for o in g), name) for name, g in grouped(group, lambda o: o["category"])]
        best += [{"window_start": start, "category": name, "total": -total} for total, name in sorted(totals)[:2]]
    return {"enriched": [{"order_id": o["order_id"], "category": o["category"]} for o in orders], "best": best}


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def hand_floats():
    clicks, sums, running, running_one, windows, ordered = rows("clicks"), [], [], [], [], []
    for start, group in grouped(clicks, lambda c: window(c["ts"], 1)):
        parts = [float32((1 if c["id"] % 2 == 0 else -1) * float(c["score"]) * 1234.567) for c in group if c["score"] is not None]
        users = len({c["user_id"] for c in group if c.get("user_id") is not None})
        sums.append({"window_start": start, "users": users, "total": float32(fsum(parts)) if parts else None})
    scored = [c for c in clicks if c["score"] is not None]
    pages = lambda group: len({c["page"] for c in group if c["page"] is not None})
    for country, group in grouped(scored, lambda c: c["country"]):
        running.append({"country": country, "doubles": 1, "floats": 1, "pages": pages(group)})
        running_one.append({"country": country, "zeros": 1})
    for start, group in grouped(scored, lambda c: window(c["ts"], 10)):
        windows.append({"window_start": start, "zeros": 1, "pages": pages(group)})
        ordered.append({"window_start": start, "zeros": [0.0]})
    return {"sums": sums, "running": running, "running_one": running_one, "windows": windows, "ordered": ordered}


def hand_window_used_twice():
    clicks, minute = rows("clicks"), timedelta(minutes=1)
    text = lambda time: time.strftime("%Y-%m-%d %H:%M:%S")
    start_of = lambda c, minutes: datetime.strptime(window(c["ts"], minutes), "%Y-%m-%d %H:%M:%S")
    newest = lambda group: max(group, key=lambda c: (c["ts"], c["id"]))["id"]
    row = lambda form, w, n: {"form": form, "w": text(w), "n": n}
    hops = [(start_of(c, 1) - minute * back, c) for c in clicks for back in range(3)]
    shared = []
    for start, pairs in grouped(hops, lambda pair: pair[0]):
        end, group = start + 3 * minute, [c for _, c in pairs]
        shared += [row("both", start, len(group)), row("end", end, len(group)), row("start", start, len(group)),
                   row("aggregated", start, end.minute), row("ranked", start, newest(group))]
        if end > datetime(2026, 2, 12, 10, 4):
            shared.append(row("filtered", start, len(group)))
    growing = [(start_of(c, 3) + minute * steps, c) for c in clicks for steps in (1, 2, 3) if start_of(c, 1) < start_of(c, 3) + minute * steps]
    cumulated = []
    for end, pairs in grouped(growing, lambda pair: pair[0]):
        group = [c for _, c in pairs]
        cumulated += [row("both", end, len(group)), row("end", end, len(group)), row("ranked", end, newest(group))]
    return {"shared_first": shared, "shared_last": shared, "cumulated": cumulated}


def hand_late_union():
    time_of = lambda text: datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f")
    start_of = lambda time, minutes: datetime.strptime(window(str(time) if time.microsecond else f"{time}.0", minutes), "%Y-%m-%d %H:%M:%S")
    clicks, watermark = [], datetime.min
    for click in rows("late"):
        time = time_of(click["ts"])
        clicks.append((click["page"], time, watermark))
        watermark = max(watermark, time - timedelta(seconds=5))
    in_time = lambda time, watermark, minutes: start_of(time, minutes) + timedelta(minutes=minutes, milliseconds=-1) > watermark
    minutes = grouped([(start_of(time, 1), page) for page, time, watermark in clicks if in_time(time, watermark, 1)], lambda key: (key[0], key[1] or ""))
    results = [(start, group[0][1], len(group)) for (start, _), group in minutes]

    def windows(minutes):
        given = [(start_of(time, minutes), page, 1) for page, time, watermark in clicks if in_time(time, watermark, minutes)]
        given += [(start_of(start, minutes), page, n) for start, page, n in results]
        found = grouped(given, lambda row: (row[0], row[1] or ""))
        return [{"window_start": str(start), "page": g[0][1], "c": len(g), "n": sum(n for _, _, n in g)} for (start, _), g in found]

    return {"with_rows": windows(1), "with_windows": windows(2)}


def hand_rows_by_place():
    def placed(o):
        product, currency, quantity = o["product"], o["currency"], o["quantity"]
        return {
            "order_id": o["order_id"], "renamed": [{"sku": product, "quantity": quantity}], "swapped": [{"currency": product, "product": currency}],
            "unnamed": [{"sku": product, "quantity": quantity}], "in_row": {"items": [{"quantity": quantity, "sku": product}]},
            "in_map": {"k": {"b": product, "a": currency}}, "plain": {"currency": product, "product": currency}}
    return {"placed": [placed(o) for o in rows("orders")]}


def hand_time_zone_insert():
    def text(time):
        return time.strftime("%Y-%m-%d %H:%M:%S") + (f".{time.microsecond // 1000:03}".rstrip("0") if time.microsecond else "")
    shown, since = [], []
    for day in rows("days"):
        instant = datetime.strptime(day["ts"], "%Y-%m-%dT%H:%M:%S.%fZ")
        wall = instant + timedelta(hours=1)  # all days are in winter
        shown.append({"id": day["id"], "wall": text(wall), "instant": text(instant) + "Z", "walls": [text(wall)],
                      "nested": {"wall": text(wall), "id": day["id"]}})
        if datetime(2026, 2, 12, 13) <= wall < datetime(2026, 2, 13):
            since.append({"id": day["id"]})
    return {"shown": shown, "since": since}
