#!/usr/bin/env python3
"""Makes the inputs of the golden queries, always the same: python3 make_inputs.py (writes inputs/<folder>/<folder>.<format>).

Each folder holds one file. Timestamps are out of order by at most 3 s (the queries wait 5 s), so no row is late and the answer
does not depend on how rows are spread over shards; the folder `late` is the exception. Doubles are multiples of 1/4, so
that sums do not depend on their order.
"""
import json
import os
import random
from datetime import datetime, timedelta

HERE = os.path.dirname(os.path.abspath(__file__))
START = datetime(2026, 2, 12, 10, 0, 0)


class Exact(float):
    """A number that is written with just these digits."""

    def __new__(cls, text):
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __repr__(self):
        return self.text


def sql(ms):
    return (START + timedelta(milliseconds=ms)).strftime("%Y-%m-%d %H:%M:%S.") + f"{ms % 1000:03d}"


def iso(ms):
    return sql(ms).replace(" ", "T") + "Z"


def cents(value):
    return Exact(f"{value // 100}.{value % 100:02d}")


def write(folder, lines, extension="jsonl"):
    os.makedirs(os.path.join(HERE, "inputs", folder), exist_ok=True)
    with open(os.path.join(HERE, "inputs", folder, f"{folder}.{extension}"), "w", encoding="utf-8") as file:
        for line in lines:
            file.write((line if isinstance(line, str) else json.dumps(line, ensure_ascii=False, separators=(",", ":"))) + "\n")


def steps(rng, rows, span_ms, disorder_ms=3000):
    """Event times: growing evenly over the span, each up to `disorder_ms` behind."""
    return [max(i * span_ms // rows - rng.randrange(disorder_ms + 1), 0) for i in range(rows)]


def clicks(rng):
    """Flat page views; ten minutes."""
    for i, ms in enumerate(steps(rng, 300, 600_000)):
        row = {"id": i + 1, "user_id": f"u{rng.randrange(20)}", "page": rng.choice(["/", "/a", "/b", "/c", "/d", "/e"]),
               "country": rng.choice(["DE", "FR", "US"]), "duration": rng.randrange(1, 1000), "score": rng.randrange(400) / 4,
               "ts": sql(ms)}
        if rng.random() < 0.08:
            row["page"] = None
        if rng.random() < 0.08:
            del row["user_id"]
        if rng.random() < 0.08:
            row["duration"] = None
        if rng.random() < 0.05:
            row["score"] = None
        yield row


def orders(rng):
    """Purchases with exact amounts, in UTC with an offset letter; twenty minutes."""
    for i, ms in enumerate(steps(rng, 200, 1_200_000)):
        row = {"order_id": f"o-{i + 1:04d}", "user_id": f"u{rng.randrange(12)}", "product": f"p{rng.randrange(12)}",
               "amount": cents(rng.randrange(1, 100_000)), "quantity": rng.randrange(1, 6),
               "currency": rng.choice(["EUR", "USD", "USD", "GBP"]), "time": iso(ms)}
        if rng.random() < 0.05:
            row["amount"] = None
        if rng.random() < 0.05:
            row["product"] = None
        yield row


def events(rng):
    """Nested events, three types and an unknown one; ten minutes."""
    for i, ms in enumerate(steps(rng, 240, 600_000)):
        kind = rng.choices(["page_view", "purchase", "error", "signup"], [60, 20, 15, 5])[0]
        row = {"event_id": f"e{i + 1:03d}", "event_type": kind, "timestamp": iso(ms)}
        if kind == "page_view":
            row["data"] = {"user_id": f"u{rng.randrange(9)}", "page": f"/p{rng.randrange(5)}",
                           "device": {"kind": rng.choice(["mobile", "desktop"]), "screen": {"width": rng.choice([390, 1920]), "height": 1080}},
                           "tags": rng.sample(["new", "sale", "x"], rng.randrange(4)), "unknown": [1, {"a": None}]}
        elif kind == "purchase":
            row["data"] = {"user_id": f"u{rng.randrange(9)}", "amount": cents(rng.randrange(1, 90_000)),
                           "attributes": {k: str(rng.randrange(9)) for k in rng.sample(["coupon", "shipping", "gift"], rng.randrange(4))}}
        elif kind == "error":
            row["data"] = {"error_code": rng.choice([404, 500, "E-17"]), "message": rng.choice(["timeout", "not found", "größer 😀", ""])}
        elif rng.random() < 0.5:
            row["data"] = None
        yield row


def sensors(rng):
    """CSV: quotes, empty fields, booleans; ten minutes."""
    for i, ms in enumerate(steps(rng, 120, 600_000)):
        value = "" if rng.random() < 0.1 else rng.randrange(-200, 400) / 4
        place = rng.choice(["hall", '"hall, north"', '"the ""old"" hall"'])
        yield f"s{rng.randrange(6)},{place},{value},{rng.choice(['true', 'false'])},{sql(ms)}"


def late(rng):
    """Clicks of which some come 7 to 200 s after their time: late for some windows, not for all."""
    for i, ms in enumerate(steps(rng, 200, 600_000)):
        if rng.random() < 0.15:
            ms = max(ms - rng.choice([7_000, 20_000, 65_000, 130_000, 200_000]), 0)
        yield {"id": i + 1, "page": rng.choice(["/", "/a", "/b"]), "duration": rng.randrange(1, 100), "ts": sql(ms)}


def ordered(rng):
    """Clicks in the order of their time, some at the very edges of a minute."""
    times = sorted([rng.randrange(300_000) for _ in range(80)] + [0, 59_999, 60_000, 60_001, 119_999, 120_000, 180_000, 239_999, 240_000, 299_999, 300_000])
    for i, ms in enumerate(dict.fromkeys(times)):
        yield {"id": i + 1, "page": rng.choice(["/", "/a", "/b"]), "duration": rng.randrange(1, 100), "ts": sql(ms)}


def types(_rng):
    """A row for each edge of the types."""
    full = {"id": 1, "t": 127, "s": -32768, "i": 2147483647, "l": 9223372036854775807, "f": 1.5, "d": 1e300, "dec": Exact("12345678.99"),
            "b": True, "str": "text", "bin": "AAEC/w==", "day": "2024-02-29", "tod": "23:59:59", "ts": "2024-02-29 23:59:59.999",
            "ltz": "2024-02-29 23:59:59.999Z", "arr": [1, None, 3], "map": {"a": 1, "b": None}, "nested": {"x": {"y": "deep"}}}
    yield full
    yield {"id": 2}
    yield {**{k: None for k in full}, "id": 3}
    yield {**full, "id": 4, "t": -128, "s": 0, "i": -2147483648, "l": -9223372036854775808, "f": -0.25, "d": 0.1, "dec": Exact("-0.005"),
           "b": False, "str": "quote \" back\\slash \n line ü 😀", "day": "1969-12-31", "tod": "00:00:00", "ts": "1969-12-31 23:59:59.001",
           "ltz": "1969-12-31 23:59:59.001Z", "arr": [], "map": {}, "nested": {"x": None}}
    yield {**full, "id": 5, "dec": Exact("1.005"), "str": Exact("12.5"), "day": "2000-01-01", "ts": "2000-01-01 00:00:00", "ltz": "2000-01-01 00:00:00Z"}
    yield {**full, "id": 6, "dec": Exact("1e3"), "str": True, "d": Exact("5"), "f": Exact("-7"), "extra": {"not": ["in", "the", "table"]}}


def texts(_rng):
    """Strings for the scalar functions."""
    values = ["Hello, World", "  padded  ", "", "a,b,,c", "ÄÖÜ größer", "😀 smile 😀", "2026-02-12 10:11:12", "123", "-7.5", "abc123def456",
              '{"a":{"b":[1,2,{"c":"x"}]},"n":1.50,"t":true,"z":null}', "[1,2,3]", "not json {", "100%_x", "O'Hara", "AbC", "key=value&k2=v2"]
    for i, value in enumerate(values):
        yield {"id": i + 1, "s": value, "p": ["a", "l", None, "b", "ö"][i % 5], "n": i % 4}
    yield {"id": len(values) + 1, "s": None, "p": "x", "n": None}


def numbers(rng):
    for i in range(60):
        yield {"id": i + 1, "g": rng.choice(["x", "y", "z", None]), "i": rng.choice([None, *range(-9, 10)]), "l": rng.randrange(-10**12, 10**12),
               "d": rng.choice([None, *[k / 4 for k in range(-40, 40)]]), "dec": Exact(f"{rng.randrange(-9999, 9999)}.{rng.randrange(10000):04d}"),
               "b": rng.choice([True, False, None])}


def products():
    for i, (name, category, margin) in enumerate([
            ("Lamp", "home", "0.3000"), ("Chair", "home", "0.4000"), ("Novel", "books", "0.2500"), ("Atlas", "books", "0.3333"),
            ("Ball", '"toys, games"', "0.5000"), ("Kite", '"toys, games"', "0.4500"), ("Phone", "electronics", "0.1250"),
            ("Cable", "electronics", "0.6000"), ("Rose", "", "0.3500")]):
        yield f"p{i},{name},{category},{margin}"


def main():
    for number, make in enumerate([clicks, orders, events, late, ordered, types, texts, numbers]):
        write(make.__name__, make(random.Random(number)))
    write("sensors", sensors(random.Random(100)), "csv")
    write("products", products(), "csv")
    write("prices", [f"p{i};{c};{Exact(f'{(i * 7 + j * 3) % 11}.50')}" for i in range(8) for j, c in enumerate(["EUR", "USD"])], "csv")
    write("labels", [{"user_id": u, "label": x} for u, x in [("u1", "vip"), ("u1", "early"), ("u3", "vip"), ("u5", None), (None, "nobody"), ("u7", "new")]])
    # Names that differ in case only, reserved words, a blank in a name.
    write("names", [{"id": i, "ID": i * 10, "Id": f"t{i % 3}", "timestamp": iso(i * 20_000), "value": i % 4, "order": f"o{i % 2}", "my col": i / 4,
                     "user": {"Name": f"n{i % 3}", "name": i}, "year": 2000 + i} for i in range(30)])
    # Unix times: milliseconds as a number, and seconds.
    write("unix", [{"id": i, "ms": 1_770_890_400_000 + i * 7_000, "s": 1_770_890_400 + i * 7, "k": f"k{i % 3}"} for i in range(50)])
    # Three days, an event each 50 minutes: for days in a time zone.
    write("days", [{"id": i, "k": f"k{i % 2}", "ts": iso(i * 3_000_000)} for i in range(90)])
    # A header's worth of trouble: other separator, literal for NULL, apostrophes for quotes, comments.
    write("odd", ["# a comment", "1;'a;b';n/a;2.50", "2;'it''s';7;n/a", "3;plain;8;0.25", "# another", "4;;9;1.00"], "csv")
    # Sums that have 39 digits, that are beyond 128 bits, below zero, and that just fit.
    write("huge", [{"k": k, "amount": amount, "ts": sql(i * 1000)} for i, (k, amount) in enumerate([
        ("39 digits", 6 * 10**37), ("128 bits", 9 * 10**37), ("fits", 9 * 10**37), ("below", -9 * 10**37), ("none", None),
        ("39 digits", 6 * 10**37), ("128 bits", 9 * 10**37 + 1), ("fits", 10**37 - 1), ("below", -9 * 10**37 - 1), ("none", None)])])
    write("mixed", [{"id": i + 1, "ts": t} for i, t in enumerate([
        "2026-02-12 10:00:00", "2026-02-12T10:00:01", "2026-02-12T10:00:02Z", "2026-02-12T12:00:03+02:00", "2026-02-12 10:00:04.5Z",
        "2026-02-12T10:00:05.123456789Z", "2026-02-12T05:00:06.007-05:00", "2026-02-12 10:00:07.89"])])


if __name__ == "__main__":
    main()
