#!/usr/bin/env python3
"""How long results are missing when the leader of two replicas is killed, with much state.

    python3 benches/takeover.py target/release/tidemill [--keys 11200000] [--runs 5] [--lease 8] [--store s3://bucket/prefix] [--end TERM]

A job has one running aggregate over so many keys (some 100 bytes of state each: 11.2 million are 1 GiB), which has read all that it will, and
one that counts events, of which one comes each 20 ms. When the state is in a checkpoint and a second replica stands by, the first is killed (kill -9)
at a random moment; the second takes over when the lease (--lease seconds, else the default) has ended, restores the state of both and
repeats the epochs since the last checkpoint. Then another replica is started to stand by, and so on. Lease and checkpoints lie in a folder, or in
the store that is named (AWS_ENDPOINT_URL_S3 for an emulator); the count is in the local stand-in for DynamoDB, and is looked at each 5 ms.

With --end TERM the leader is told to end, as in a rolling upgrade: it finishes its epoch, writes a checkpoint and gives the lease back. Counted is then the
longest time in which no count came that nobody had seen before, from the signal until the other one has given some.

Printed: bytes of state, and of each kill the seconds until the other one says that it leads, and until the first count that nobody had seen before.
"""

import argparse
import json
import os
import random
import re
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time

SQL = """
{lease}
CREATE TABLE made (k BIGINT, t STRING) WITH ('connector' = 'datagen', 'rows-per-second' = '100000000',
  'number-of-rows' = '{keys}', 'fields.k.kind' = 'sequence', 'fields.k.start' = '1', 'fields.k.end' = '{keys}', 'fields.t.length' = '64');
CREATE TABLE nothing (k BIGINT, n BIGINT, t STRING, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'blackhole');
INSERT INTO nothing SELECT k, COUNT(*), MAX(t) FROM made GROUP BY k;
CREATE TABLE ticks (id BIGINT) WITH ('connector' = 'kinesis', 'stream' = 'ticks', 'format' = 'json');
CREATE TABLE counts (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
INSERT INTO counts SELECT 'all', COUNT(*) FROM ticks;
"""
PATIENCE = 900


class Job:
    def __init__(self, binary, folder, store):
        self.binary, self.folder, self.store, self.started = binary, folder, store, 0

    def replica(self):
        """Starts one, and answers it with the file of what it says."""
        self.started += 1
        log = os.path.join(self.folder, f"{self.started}.log")
        command = [self.binary, "run", "job.sql", "--local", "local", "--checkpoints", self.store, "--lease", "checkpoints",
                   "--from", "trim_horizon", "--epoch-interval", "100ms"]
        with open(log, "w") as file:
            environment = dict(os.environ, HOSTNAME=f"replica-{self.started}")
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        return process, log

    def state(self):
        """Rows and bytes of the large aggregate in the newest checkpoint."""
        shown = subprocess.run([self.binary, "state", "show", f"{self.store}/job"], cwd=self.folder, capture_output=True, text=True).stdout
        found = re.search(r"query job:nothing.*\n\s*operator 0: (\d+) rows, (\d+) bytes", shown)
        return (int(found.group(1)), int(found.group(2))) if found else (0, 0)

    def count(self):
        try:
            with sqlite3.connect(f"file:{self.folder}/local/dynamodb.sqlite?mode=ro", uri=True) as database:
                row = database.execute("SELECT c FROM counts").fetchone()
            return row[0] if row else 0
        except sqlite3.Error:
            return 0  # not yet there, or just being written


def said(log):
    with open(log) as file:
        return file.read()


def wait(what, replicas, done, pause=0.05):
    until = time.monotonic() + PATIENCE
    while not done():
        for process, log in replicas:
            if process.poll() is not None:
                sys.exit(f"a replica has ended: {said(log)}")
        if time.monotonic() > until:
            sys.exit(f"not within {PATIENCE} s: {what}\n" + "".join(said(log) for _, log in replicas))
        time.sleep(pause)


def tick(stream, ends):
    """An event each 20 ms."""
    number = 0
    with open(stream, "ab", buffering=0) as file:
        while not ends.wait(0.02):
            file.write(json.dumps({"id": number}).encode() + b"\n")
            number += 1


def killed(job, replicas):
    """Kills the leader when the other one stands by; seconds until that leads, and until a new result."""
    (leader, _), (_, log) = replicas
    time.sleep(random.uniform(0, 10))
    leader.kill()
    leader.wait()
    began, seen = time.monotonic(), job.count()
    wait("the other one leads", replicas[1:], lambda: "leads: " in said(log), 0.005)
    leads = time.monotonic() - began
    wait("a new result", replicas[1:], lambda: job.count() > seen, 0.005)
    return leads, time.monotonic() - began


def ended(job, replicas):
    """Ends the leader in order when the other one stands by; seconds until that leads, and the longest pause of new results."""
    (leader, _), (_, log) = replicas
    time.sleep(random.uniform(0, 10))
    began = last = time.monotonic()
    seen, longest, leads, after = job.count(), 0, None, 0
    leader.terminate()

    def goes_on():
        nonlocal last, seen, longest, leads, after
        now, count = time.monotonic(), job.count()
        leads = leads or ("leads: " in said(log) and now - began) or None
        if count > seen:
            longest, last, seen = max(longest, now - last), now, count
            after += leads is not None
        return after > 20

    wait("the other one goes on", replicas[1:], goes_on, 0.005)
    leader.wait()
    return leads, longest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=os.path.abspath)
    parser.add_argument("--keys", type=int, default=11_200_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--lease", type=float)
    parser.add_argument("--store")
    parser.add_argument("--end", choices=["KILL", "TERM"], default="KILL")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = f"{args.store}/takeover-{os.getpid()}" if args.store else os.path.join(folder, "kept")
        job, ends = Job(args.binary, folder, store), threading.Event()
        with open(os.path.join(folder, "job.sql"), "w") as file:
            lease = f"SET 'tidemill.lease.ttl' = '{round(args.lease * 1000)} ms';" if args.lease else ""
            file.write(SQL.format(keys=args.keys, lease=lease))
        os.makedirs(os.path.join(folder, "local/kinesis/ticks"))
        stream = os.path.join(folder, "local/kinesis/ticks/shard.jsonl")
        open(stream, "w").close()
        replicas = [job.replica()]
        ticking = threading.Thread(target=tick, args=(stream, ends))
        try:
            wait("it leads", replicas, lambda: "leads: " in said(replicas[0][1]))
            wait("the state is in a checkpoint", replicas, lambda: job.state()[0] == args.keys, 1)
            print(f"{args.keys} keys, {job.state()[1] / 2**20:.0f} MiB of state in {'a folder' if not args.store else store}", flush=True)
            ticking.start()
            times = []
            for run in range(args.runs):
                replicas.append(job.replica())
                wait("another one stands by", replicas, lambda: "waits: " in said(replicas[-1][1]))
                before = job.count()
                wait("events are counted", replicas, lambda: job.count() > before + 50)
                leads, result = killed(job, replicas) if args.end == "KILL" else ended(job, replicas)
                times.append((leads, result))
                del replicas[0]
                what = "killed" if args.end == "KILL" else "ended"
                print(f"{what}: the other one leads after {leads:.2f} s, a new result after {result:.2f} s", flush=True)
            for name, of in zip(["leads", "a new result"], zip(*times)):
                print(f"{name}: median {statistics.median(of):.2f} s, from {min(of):.2f} to {max(of):.2f} s")
        finally:
            ends.set()
            for process, _ in replicas:
                process.send_signal(signal.SIGKILL)
                process.wait()
            if ticking.is_alive():
                ticking.join()


if __name__ == "__main__":
    main()
