#!/usr/bin/env python3
"""Does the shipped job stay the same size? Events at a steady rate for half an hour, and what the process holds meanwhile.

    python3 benches/soak.py target/release/tidemill [--minutes 30] [--rate 1000] [--speed 540] [--csv FILE]

Starts `tidemill run QUERIES --local DIR` and feeds it through `tidemill produce`. Event time runs `--speed` times as fast as the
clock, so that running counters, which are forgotten after 4 days and an hour of event time (a day more than rows may be late), are seen to go: at 540 the first of them after
11 minutes. Each 5 seconds it samples the worker's anonymous memory, open files and threads, bytes and files of its checkpoints
(state files, manifests, epoch log), and how far it is behind the producer.

At the end the second half is judged: a line is laid through each figure by least squares, and its rise over that half must stay
below the bound that is printed beside it. (Threads come and go by the dozen: those that wait for a disk. What is judged is whether they become more.)
The stream, the archive and DynamoDB's file grow by nature and are reported apart. The worker is stopped by SIGTERM; it must end
well and have read every record. Exit code 1 when anything is not flat.
"""

import argparse
import datetime
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

STREAM = "analytics-events"
SAMPLE_SECONDS = 5
MIB = 1 << 20
# What a figure may rise by over the second half: at least so much, or this share of its mean.
BOUNDS = {
    "anonymous MiB": (24, 0.15),
    "open files": (4, 0.0),
    "threads": (3, 0.0),
    "checkpoint MiB": (4, 0.20),
    "checkpoint files": (12, 0.20),
    "behind s": (2, 0.0),
}


def event(rng, number, time_ms, pages):
    stamp = datetime.datetime.fromtimestamp(time_ms / 1000, datetime.timezone.utc)
    stamp = stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    user, kind = f"user-{rng.randrange(100_000):06d}", rng.random()
    if kind < 0.80:
        name, data = "page_view", {"user_id": user, "page": f"/shop/page-{rng.randrange(pages):04d}.html", "device": "mobile"}
    elif kind < 0.92:
        amount = rng.randrange(100, 60_000) / 100
        name = "purchase"
        data = {"user_id": user, "product_id": f"product-{rng.randrange(5000):05d}", "amount": amount, "currency": "USD"}
    else:
        name, data = "error", {"error_code": rng.choice(["500", "502", "404"]), "message": "internal error in checkout"}
    return json.dumps({"event_id": f"soak-{number}", "event_type": name, "timestamp": stamp, "data": data})


class Producer(threading.Thread):
    """Writes lines to the producer's pipe as they are due."""

    def __init__(self, args, local):
        super().__init__(daemon=True)
        self.args, self.written, self.stopped = args, 0, False
        command = [args.binary, "produce", STREAM, "--local", local, "--partition-key", "data.user_id"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def run(self):
        rng, began = random.Random(20261126), time.monotonic()
        start_ms = 1_772_000_000_000
        while not self.stopped:
            elapsed = time.monotonic() - began
            due = int(elapsed * self.args.rate) - self.written
            if due > 0:
                now_ms = start_ms + int(elapsed * 1000 * self.args.speed)
                lines = [event(rng, self.written + n, now_ms, self.args.pages) for n in range(due)]
                self.process.stdin.write(("\n".join(lines) + "\n").encode())
                self.process.stdin.flush()
                self.written += due
            time.sleep(0.02)
        self.process.stdin.close()
        self.process.wait()


def size(folder):
    """Bytes and files below a folder; files may go while it is walked."""
    total = count = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_size
                count += 1
            except FileNotFoundError:
                pass
    return total, count


def sample(pid, local, log):
    status = open(f"/proc/{pid}/status").read()
    anonymous = int(re.search(r"RssAnon:\s+(\d+)", status).group(1)) / 1024
    threads = int(re.search(r"Threads:\s+(\d+)", status).group(1))
    files = len(os.listdir(f"/proc/{pid}/fd"))
    bytes_, count = size(os.path.join(local, "checkpoints"))
    lines = re.findall(r": (\d+) records \(", open(log).read()[-4000:])
    return anonymous, files, threads, bytes_ / MIB, count, int(lines[-1]) if lines else None


def rise(values):
    """By how much the fitted line rises from the first to the last value."""
    n = len(values)
    mean_x, mean_y = (n - 1) / 2, sum(values) / n
    slope = sum((x - mean_x) * (y - mean_y) for x, y in enumerate(values)) / sum((x - mean_x) ** 2 for x in range(n))
    return slope * (n - 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=os.path.abspath)
    parser.add_argument("--queries", default="queries", type=os.path.abspath)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--speed", type=float, default=540)
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--interval", help="between checkpoints, instead of the job's own 10 s")
    parser.add_argument("--csv", help="every sample, for a look at it")
    args = parser.parse_args()
    local = tempfile.mkdtemp(prefix="soak-")
    log = os.path.join(local, "worker.log")
    command = [args.binary, "run", args.queries, "--local", local]
    command += ["--checkpoint-interval", args.interval] if args.interval else []
    with open(log, "w") as out:
        worker = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    producer = Producer(args, local)
    producer.start()
    began, names, samples = time.monotonic(), list(BOUNDS), []
    last_line, behind = None, 0.0
    next_at = began + SAMPLE_SECONDS
    while time.monotonic() - began < args.minutes * 60:
        # Looked at often, so that a line of the log is dated well.
        time.sleep(0.5)
        if worker.poll() is not None:
            sys.exit(f"the worker ended with {worker.returncode}:\n{open(log).read()}")
        *figures, records = sample(worker.pid, local, log)
        if records is not None and records != last_line:
            last_line, behind = records, max(0.0, (producer.written - records) / args.rate)
        if time.monotonic() >= next_at:
            next_at += SAMPLE_SECONDS
            samples.append([*figures, behind])
            if len(samples) % 12 == 0:
                shown = ", ".join(f"{name} {value:.1f}" for name, value in zip(names, samples[-1]))
                print(f"{(time.monotonic() - began) / 60:5.1f} min: {shown}", flush=True)
    producer.stopped = True
    producer.join()
    # What is still on its way is read before the end.
    time.sleep(3)
    worker.send_signal(signal.SIGTERM)
    code = worker.wait()
    said = open(log).read()
    summary = said[said.rfind(" records in ") - 12:]
    if args.csv:
        with open(args.csv, "w") as out:
            out.write(",".join(names) + "\n")
            out.writelines(",".join(f"{value:.3f}" for value in line) + "\n" for line in samples)

    problems, half = [], len(samples) // 2
    print(f"{args.minutes:g} minutes, {producer.written} events at {args.rate}/s, {args.minutes / 1440 * args.speed:.1f} days of event time")
    print(f"{'':18}{'first half':>22}{'second half':>22}{'rise':>9}{'bound':>8}")
    for index, name in enumerate(names):
        first, second = [s[index] for s in samples[:half]], [s[index] for s in samples[half:]]
        least, share = BOUNDS[name]
        bound = max(least, share * sum(second) / len(second))
        grown = rise(second)
        text = [f"{min(part):.1f} to {max(part):.1f}" for part in (first, second)]
        print(f"{name:18}{text[0]:>22}{text[1]:>22}{grown:>9.2f}{bound:>8.1f}")
        if grown > bound:
            problems.append(f"{name} rises by {grown:.1f} over the second half")
    for place in ["kinesis", "s3", "sns", "dynamodb.sqlite", "errors"]:
        path = os.path.join(local, place)
        bytes_, count = size(path) if os.path.isdir(path) else (os.path.getsize(path) if os.path.exists(path) else 0, 1)
        print(f"grows by nature: {place}: {bytes_ / MIB:.0f} MiB in {count} files")
    print(summary.strip())
    read = re.search(r"(\d+) records in ", said)
    if code != 0 or not read:
        problems.append(f"the worker ended with {code}: {said[-2000:]}")
    elif int(read.group(1)) != producer.written:
        problems.append(f"{read.group(1)} of {producer.written} records were read")
    shutil.rmtree(local)
    for problem in problems:
        print(f"NOT FLAT: {problem}")
    print("flat" if not problems else "not flat")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
