#!/usr/bin/env python3
"""Writes tests/data/edge/shard-{0,1}.jsonl: two shards with what weblog and shop do not have, always the same.

Late rows (for minutes, for five minutes, for the running counters), missing and odd fields, half cents, long messages,
offsets, records that cannot be decoded.
"""
import os
import random
from datetime import datetime, timedelta, timezone

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "edge")
START = datetime(2026, 2, 12, 23, 50, tzinfo=timezone.utc)
BAD = [
    b'{"event_id":"x1","event_type":"page_view","timestamp":"2026-02-12T23:55:00Z","data":{"page":"/cut',
    b'{"event_id":"x2","event_type":"purchase","timestamp":"2026-02-12T23:55:00Z","data":{"amount":NaN}}',
    b'{"event_id":"x3","event_type":"page_view","timestamp":"2026-02-12T23:55:00Z","data":{"page":"\xff\xfe"}}',
    b'{"event_id":"x4" "event_type":"page_view","timestamp":"2026-02-12T23:55:00Z"}',
    b'{"event_id":"x5","timestamp":"2026-02-12T23:55:00Z","data":{"amount":01}}',
    b'["an","array"]',
    b'7',
    b'{"event_id":"x6","event_type":"page_view","data":{"page":"/no-time"}}',
    b'{"event_id":"x7","event_type":"page_view","timestamp":null,"data":{"page":"/null-time"}}',
    b'{"event_id":"x8","event_type":"page_view","timestamp":"yesterday","data":{"page":"/bad-time"}}',
    b'{"event_id":"x9","event_type":"page_view","timestamp":1770890400000,"data":{"page":"/number-time"}}',
    b'{"event_id":"x10","event_type":"page_view","timestamp":"2026-02-30T10:00:00Z","data":{"page":"/no-such-day"}}',
    b'{"event_id":"x11","event_type":"page_view","timestamp":"99999-01-01T00:00:00Z","data":{"page":"/far"}}',
    b'{"event_id":"x12","event_type":"purchase","timestamp":"2026-02-12T23:55:00Z","data":{"amount":"12.50"}}',
    b'{"event_id":"x13","event_type":"purchase","timestamp":"2026-02-12T23:55:00Z","data":{"amount":true}}',
    b'{"event_id":"x14","event_type":"purchase","timestamp":"2026-02-12T23:55:00Z","data":{"amount":' + b"9" * 60 + b'}}',
    b'{"event_id":"x15","event_type":"purchase","timestamp":"2026-02-12T23:55:00Z","data":"no object"}',
]
AMOUNTS = ["19.99", "0.005", "0.004999999999999999", "1.005", "-3.50", "-0.005", "500", "500.000000000000000001", "500.01", "1e3", "12.5E-1", "0",
           "123456789012.345", "99.995", "2.675"]


def stamp(ms, form):
    time = START + timedelta(milliseconds=ms)
    milliseconds = f"{time.microsecond // 1000:03d}"
    if form == "offset":
        return (time + timedelta(hours=5, minutes=30)).strftime("%Y-%m-%dT%H:%M:%S.") + milliseconds + "+05:30"
    if form == "sql":
        return time.strftime("%Y-%m-%d %H:%M:%S.") + milliseconds
    if form == "fine":
        return time.strftime("%Y-%m-%dT%H:%M:%S.") + milliseconds + "999Z"
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + milliseconds + "Z"


def event(rng, number, ms):
    when = stamp(ms, rng.choices(["z", "offset", "sql", "fine"], [85, 5, 5, 5])[0])
    kind = rng.choices(["page_view", "purchase", "error", "signup"], [55, 20, 22, 3])[0]
    if kind == "page_view":
        page = rng.choices(['"/a"', '"/b"', '"/caf\\u00e9"', '"/😀"', '""', "null", "7", "true", None], [30, 30, 10, 5, 5, 5, 3, 2, 10])[0]
        user = rng.choice(['"u1"', '"u2"', '"u3"', "42", "null", None])
        fields = [("page", page), ("user_id", user), ("unknown", '{"deep":[1,{"x":[null]}]}')]
    elif kind == "purchase":
        fields = [("amount", rng.choices([rng.choice(AMOUNTS), "null", None], [90, 5, 5])[0]),
                  ("currency", rng.choice(['"EUR"', '"USD"', '"USD"', '""', None, '"total"'] if number % 7 == 0 else ['"EUR"', '"USD"'])),
                  ("product_id", rng.choice(['"product-00001"', '"product-00002"', '"product-00042"', '"nobody-knows"', "null"])),
                  ("user_id", '"u9"')]
    elif kind == "error":
        message = rng.choice(['"short"', '"' + "é" * 499 + '"', '"' + "😀" * 501 + '"', '"' + "x" * 700 + '"', "null", None, '"a \\"quoted\\" line\\nand another"'])
        fields = [("error_code", rng.choice(['"500"', '"500"', '"404"', "503", '""', "null", None])), ("message", message)]
    else:
        fields = [("plan", '"pro"')]
    rng.shuffle(fields)
    data = "{" + ",".join(f'"{name}":{value}' for name, value in fields if value is not None) + "}"
    if rng.random() < 0.02:
        data = '{"page":"/overwritten",' + (data[1:] if len(data) > 2 else '"z":0}')  # a key twice: the last one counts
    parts = [f'"event_id":"e{number:05d}"', f'"event_type":"{kind}"', f'"timestamp":"{when}"', f'"data":{data}']
    if kind == "signup" and rng.random() < 0.5:
        parts[3] = '"data":null'
    if rng.random() < 0.2:
        rng.shuffle(parts)
    space = " " if rng.random() < 0.1 else ""
    return ("{" + space + f",{space}".join(parts) + space + "}").encode()


def main():
    os.makedirs(FOLDER, exist_ok=True)
    for shard in range(2):
        rng, lines = random.Random(1000 + shard), []
        for i in range(1200):
            ms = i * 1000 + shard * 137 - rng.randrange(4000)  # 20 minutes, over midnight
            if rng.random() < 0.04:
                ms -= rng.choice([10_000, 70_000, 400_000, 100_000_000, 350_000_000])  # the last: more than 3 days
            lines.append(event(rng, i * 2 + shard, ms))
        for i, bad in enumerate(BAD):
            if i % 2 == shard:
                lines.insert(rng.randrange(len(lines)), bad)
        with open(os.path.join(FOLDER, f"shard-{shard}.jsonl"), "wb") as file:
            file.write(b"\n".join(lines) + b"\n")


if __name__ == "__main__":
    main()
