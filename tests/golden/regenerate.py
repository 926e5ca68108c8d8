#!/usr/bin/env python3
"""Writes expected/<query>/<sink>.jsonl for the golden queries; see README.md.

    python3 -m venv VENV && VENV/bin/pip install --no-deps apache-flink-libraries==2.3.0      # and a JDK, 17 or 21
    VENV/bin/python regenerate.py [QUERY ...]          # all, or those whose names are given; --check compares instead

The answers come from a real Flink (oracle/), and for the files that say `-- oracle: hand` from by_hand.py.
"""
import glob
import json
import os
import re
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "oracle")]
import by_hand  # noqa: E402
from flink_oracle import Oracle  # noqa: E402

SINK = re.compile(r"CREATE TABLE (`?\w+`?) \((?:(?!CREATE TABLE).)*?'\$\{OUT\}/(\w+)'", re.S)
KEY = re.compile(r"PRIMARY KEY \(([^)]*)\)")
OPERATION = re.compile(r',?"__op":"(..)"\}$')
REMOVED = ("-U", "-D", "delete")  # by Flink, and by Tidemill, which writes nothing else


def sinks(sql):
    """{name: key columns, or None} of the sinks that a file declares."""
    found = {}
    for match in SINK.finditer(sql):
        key = KEY.search(match.group(0))
        found[match.group(2)] = [c.strip(" `") for c in key.group(1).split(",")] if key else None
    return found


def reduce(lines, key):
    """A change log as what is left of it: the rows as they came, or the last of each key; sorted."""
    if key is None:
        return sorted(OPERATION.sub("}", line) for line in lines)
    rows = {}
    for line in lines:
        row = json.loads(line, parse_float=str, parse_int=str)
        identity = tuple(json.dumps(row[column]) for column in key)
        if row.get("__op") in REMOVED:
            rows.pop(identity, None)
        else:
            rows[identity] = OPERATION.sub("}", line)
    return sorted(rows.values())


def main():
    names = [n for n in sys.argv[1:] if n != "--check"] or sorted(os.path.basename(f)[:-4] for f in glob.glob(os.path.join(HERE, "*.sql")))
    target = tempfile.mkdtemp() if "--check" in sys.argv else os.path.join(HERE, "expected")
    oracle, failed = None, False
    for name in names:
        path = os.path.join(HERE, f"{name}.sql")
        sql = open(path, encoding="utf-8").read()
        output = tempfile.mkdtemp()
        if "-- oracle: hand" in sql:
            for sink, rows in getattr(by_hand, name)().items():
                with open(os.path.join(output, f"{sink}.jsonl"), "w", encoding="utf-8") as file:
                    file.writelines(by_hand.line(row) + "\n" for row in rows)
            problem = None
        else:
            oracle = oracle or Oracle()
            problem = oracle.run(path, os.path.join(HERE, "inputs"), output)
        if problem:
            failed = True
            print(f"{name}: {problem}")
            continue
        folder = os.path.join(target, name)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        for sink, key in sinks(sql).items():
            source = os.path.join(output, f"{sink}.jsonl")
            lines = open(source, encoding="utf-8").read().splitlines() if os.path.exists(source) else []
            with open(os.path.join(folder, f"{sink}.jsonl"), "w", encoding="utf-8") as file:
                file.writelines(row + "\n" for row in reduce(lines, key))
            if target != os.path.join(HERE, "expected"):
                old = os.path.join(HERE, "expected", name, f"{sink}.jsonl")
                if not os.path.exists(old) or open(old).read() != open(os.path.join(folder, f"{sink}.jsonl")).read():
                    failed = True
                    print(f"{name}: {sink} differs")
        shutil.rmtree(output)
        print(name, flush=True)
    if oracle:
        oracle.close()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
