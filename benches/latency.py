#!/usr/bin/env python3
"""How long from `tidemill produce` to the value in the local table, and what an idle worker costs.

    python3 benches/latency.py target/release/tidemill [--queries queries] [--seconds 30] [--rate 1000]

For each epoch interval (1s and 50ms): starts `tidemill run QUERIES --local DIR` on a fresh folder, sends events at
the rate through `tidemill produce`, with a marker event (a page view of a page that nobody else views) every 50 ms or
so, and polls DIR/dynamodb.sqlite for the markers every 2 ms. A marker's latency runs from the moment at which its line
is written to the producer's pipe to the moment at which a reader of the SQLite file sees it: it includes the producer.

Before that: the time from the start of the program to the first result, with events that lie there already. After it:
CPU of the worker over some quiet seconds (user + system, /proc/PID/stat), as a share of one core: at rest right after the
traffic, and when all shards are idle (30 s without data), which is when event time goes on with the clock.
"""

import argparse
import datetime
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

STREAM, TABLE = "analytics-events", "analytics-metrics"
ERRORS = ["500", "502", "404"]
POLL = 0.002
MARKER_EVERY = 0.05
IDLE_TIMEOUT = 30


def event(rng, number, page=None):
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    user = f"user-{rng.randrange(100_000):06d}"
    kind = 0.0 if page else rng.random()
    if kind < 0.80:
        data = {"user_id": user, "page": page or f"/shop/page-{min(rng.randrange(1000), rng.randrange(1000)):04d}.html",
                "referrer": "direct", "device": "mobile"}
        name = "page_view"
    elif kind < 0.92:
        data = {"user_id": user, "product_id": f"product-{rng.randrange(5000):05d}",
                "amount": rng.randrange(100, 60_000) / 100, "currency": "USD"}
        name = "purchase"
    else:
        data = {"error_code": rng.choice(ERRORS), "message": "internal error in checkout"}
        name = "error"
    line = json.dumps({"event_id": f"latency-{number}", "event_type": name, "timestamp": now, "data": data})
    return line.encode() + b"\n"


class Worker:
    """A running `tidemill run`."""

    def __init__(self, args, local, interval):
        command = [args.binary, "run", args.queries, "--local", local, "--epoch-interval", interval]
        self.log = open(os.path.join(local, "worker.log"), "w+")
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cpu_share(self, seconds):
        before, start = self.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / (time.monotonic() - start)

    def check(self):
        if self.process.poll() is not None:
            self.log.seek(0)
            sys.exit(f"the worker ended with {self.process.returncode}:\n{self.log.read()}")

    def stop(self):
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=30)
        if code != 0:
            self.log.seek(0)
            sys.exit(f"the worker ended with {code}:\n{self.log.read()}")
        return time.monotonic() - start


def produce(args, local, **more):
    command = [args.binary, "produce", STREAM, "--local", local, "--partition-key", "data.user_id"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, **more)


def connect(worker, local):
    """A connection of a reader, once the worker has made the table."""
    path = os.path.join(local, "dynamodb.sqlite")
    while True:
        worker.check()
        if os.path.exists(path):
            try:
                connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5, isolation_level=None)
                connection.execute(f'SELECT view_count FROM "{TABLE}" LIMIT 1').fetchall()
                return connection
            except sqlite3.OperationalError:
                pass
        time.sleep(POLL)


def first_result(args, interval):
    """Seconds from the start of the program to the first row, with 1,000 events there before."""
    local = tempfile.mkdtemp(prefix="tidemill-latency-")
    rng = random.Random(1)
    lines = b"".join(event(rng, n) for n in range(1000))
    producer = produce(args, local, stdin=subprocess.PIPE)
    producer.communicate(lines)
    worker = Worker(args, local, interval)
    connection = connect(worker, local)
    while not connection.execute(f'SELECT 1 FROM "{TABLE}" LIMIT 1').fetchall():
        worker.check()
        time.sleep(POLL)
    seconds = time.monotonic() - worker.started
    worker.stop()
    shutil.rmtree(local)
    return seconds


class Feeder(threading.Thread):
    """Writes events evenly to the producer's pipe; says when each marker was written."""

    def __init__(self, args, pipe, sent):
        super().__init__(daemon=True)
        self.args, self.pipe, self.sent, self.number = args, pipe, sent, 0

    def run(self):
        rng = random.Random(2)
        start = time.monotonic()
        marker_at = start + 2.0  # the first seconds are the start, not the steady state
        while (now := time.monotonic()) - start < self.args.seconds + 2.0:
            due = int((now - start) * self.args.rate)
            lines = []
            while self.number < due:
                self.number += 1
                lines.append(event(rng, self.number))
            if now >= marker_at:
                # Not in step with the epochs.
                marker_at = now + MARKER_EVERY * rng.uniform(0.5, 1.5)
                page = f"/marker/{self.number}"
                lines.append(event(rng, f"m{self.number}", page))
                self.sent[page] = time.monotonic()
            if lines:
                self.pipe.write(b"".join(lines))
                self.pipe.flush()
            time.sleep(0.002)
        self.pipe.close()


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def measure(args, interval):
    local = tempfile.mkdtemp(prefix="tidemill-latency-")
    worker = Worker(args, local, interval)
    producer = produce(args, local, stdin=subprocess.PIPE)
    # The worker makes the table with its first row.
    producer.stdin.write(event(random.Random(3), 0, "/first"))
    producer.stdin.flush()
    connection = connect(worker, local)
    sent, seen = {}, {}
    feeder = Feeder(args, producer.stdin, sent)
    cpu_before, start = worker.cpu_seconds(), time.monotonic()
    feeder.start()
    ended = None
    while True:
        rows = connection.execute(
            f"SELECT sort_key FROM \"{TABLE}\" WHERE metric_key >= 'pageviews#' AND metric_key < 'pageviews$' "
            "AND sort_key > '/marker/' AND sort_key < '/marker0'").fetchall()
        now = time.monotonic()
        for (page,) in rows:
            seen.setdefault(page, now)
        if not feeder.is_alive():
            ended = ended or now
            if len(seen) == len(sent) or now - ended > 10:
                break
        time.sleep(POLL)
        worker.check()
    busy = (worker.cpu_seconds() - cpu_before) / (now - start)
    if producer.wait(timeout=10) != 0:
        sys.exit("the producer failed")
    latencies = [seen[page] - at for page, at in sent.items() if page in seen]
    lost = len(sent) - len(seen)
    print(f"epochs of {interval}: {len(latencies)} markers among {feeder.number} events at {args.rate}/s: "
          f"p50 {percentile(latencies, 0.5) * 1000:.0f} ms, p99 {percentile(latencies, 0.99) * 1000:.0f} ms, "
          f"max {max(latencies) * 1000:.0f} ms{f', {lost} NEVER SEEN' if lost else ''}; worker {busy:.1%} of a core",
          flush=True)
    quiet_since = time.monotonic()
    time.sleep(2)
    rest = worker.cpu_share(args.idle_seconds)
    time.sleep(max(0.0, IDLE_TIMEOUT + 3 - (time.monotonic() - quiet_since)))
    idle = worker.cpu_share(args.idle_seconds)
    stopped = worker.stop()
    print(f"  without events: {rest:.2%} of a core at rest, {idle:.2%} when shards are idle; ends {stopped:.2f} s after SIGTERM",
          flush=True)
    shutil.rmtree(local)
    return lost


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--queries", default=os.path.join(os.path.dirname(__file__), "..", "queries"))
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--idle-seconds", type=float, default=20)
    parser.add_argument("--intervals", default="1s,50ms")
    args = parser.parse_args()
    args.queries = os.path.realpath(args.queries)
    starts = [first_result(args, "1s") for _ in range(3)]
    print(f"start to first result: {', '.join(f'{s:.2f}' for s in starts)} s", flush=True)
    lost = sum(measure(args, interval) for interval in args.intervals.split(","))
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
