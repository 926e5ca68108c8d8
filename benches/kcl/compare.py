#!/usr/bin/env python3
"""Tidemill and the Kinesis Client Library 3 on the same stream: CPU, memory, time, and how soon a child shard is read.

    python3 -m venv VENV && VENV/bin/pip install kclpy-ext==3.1.3.post4     # has KCL 3.1.3 with all its jars
    python3 benches/kcl/compare.py --binary target/release/tidemill --kcl VENV [--records 500000] [--shards 8]

It needs `javac` and `java` (17), `cargo` for the stub, and dynoxide from `tests/emulators/setup-tables` for KCL's lease table.

The service is the stub of `tests/aws_stub` (JSON over HTTP/1.1, five reads a second and 2 MB/s a shard as at AWS), since
the emulators are slower than either reader; it runs in a process of its own, built without optimisation. Each reader gets a
new one, filled with the same lines, reads them from the oldest on, and then waits: a shard is split and a record is put into each child,
five times; what is timed is from the answer of SplitShard to the marker on the reader's standard output.

CPU is user + system of the reader's process, from its start to the moment at which it has said that all is read: a JVM's start
and KCL's leases are in it, and are given beside it, as CPU until the first record. Memory is VmHWM. Readers: KCL counts records, raw or with
their JSON parsed by Jackson; Tidemill counts them by type, which parses them, with epochs of 1 s (its default) and 50 ms.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SPLITS = 5
PATIENCE = 300
TICKS = os.sysconf("SC_CLK_TCK")

JOB = """
CREATE TABLE events (event_id STRING, event_type STRING)
WITH ('connector' = 'kinesis', 'stream' = 'events', 'format' = 'json');
CREATE TABLE counts (event_type STRING, n BIGINT, PRIMARY KEY (event_type) NOT ENFORCED) WITH ('connector' = 'print');
CREATE TABLE markers (event_id STRING) WITH ('connector' = 'print');
INSERT INTO counts SELECT event_type, COUNT(*) FROM events GROUP BY event_type;
INSERT INTO markers SELECT 'marker ' || event_id FROM events WHERE event_type = 'marker';
"""


def lines(path, count):
    """Events of about 220 bytes, the same at each call."""
    rng = random.Random(7)
    with open(path, "w") as out:
        for number in range(count):
            kind = rng.random()
            if kind < 0.8:
                name, data = "page_view", {"user_id": f"user-{rng.randrange(100_000):06d}",
                                           "page": f"/shop/page-{rng.randrange(1000):04d}.html", "referrer": "direct",
                                           "device": "mobile"}
            else:
                name, data = "purchase", {"user_id": f"user-{rng.randrange(100_000):06d}",
                                          "product_id": f"product-{rng.randrange(5000):05d}",
                                          "amount": rng.randrange(100, 60_000) / 100, "currency": "USD"}
            event = {"event_id": f"{rng.getrandbits(64):016x}-{number:09d}", "event_type": name,
                     "timestamp": f"2026-02-12T10:{number % 3600 // 60:02d}:{number % 60:02d}.000Z", "data": data}
            out.write(json.dumps(event) + "\n")


class Stub:
    """The stub in a process of its own."""

    def __init__(self, path, shards):
        env = dict(os.environ, TIDEMILL_STUB_LINES=str(path), TIDEMILL_STUB_SHARDS=str(shards))
        command = ["cargo", "test", "--quiet", "--test", "kinesis_aws", "--", "--ignored", "--nocapture", "--exact",
                   "serve::a_stub_for_other_programs"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
                                        stdout=subprocess.DEVNULL, text=True)
        for line in self.process.stderr:
            if line.startswith("stub "):
                self.endpoint = line.split()[1]
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return
        sys.exit("the stub does not start")

    def call(self, operation, **body):
        headers = {"X-Amz-Target": f"Kinesis_20131202.{operation}", "Content-Type": "application/x-amz-json-1.1"}
        request = urllib.request.Request(self.endpoint, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    def split(self, number):
        """Splits an open shard and puts a marker into each child; answers the markers."""
        shards = self.call("ListShards", StreamName="events")["Shards"]
        shard = [s for s in shards if "EndingSequenceNumber" not in s["SequenceNumberRange"]][0]
        first, last = (int(shard["HashKeyRange"][k]) for k in ("StartingHashKey", "EndingHashKey"))
        middle = first + (last - first) // 2 + 1
        self.call("SplitShard", StreamName="events", ShardToSplit=shard["ShardId"], NewStartingHashKey=str(middle))
        at = time.monotonic()
        import base64
        markers = {}
        for key, hash_key in (("left", first), ("right", middle)):
            name = f"{key}-{number}"
            data = base64.b64encode(json.dumps({"event_id": name, "event_type": "marker"}).encode()).decode()
            self.call("PutRecords", StreamName="events",
                      Records=[{"Data": data, "PartitionKey": "k", "ExplicitHashKey": str(hash_key)}])
            markers[name] = at
        return markers

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def cpu(pid):
    """User and system seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mib(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


class Reader:
    """A reader's process; its output is read as it comes."""

    def __init__(self, command, cwd, env):
        self.log = tempfile.TemporaryFile("w+")
        self.began = time.monotonic()
        self.process = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.counts, self.markers, self.first = {}, {}, None
        threading.Thread(target=self.follow, daemon=True).start()

    def follow(self):
        for line in self.process.stdout:
            now = time.monotonic()
            if "marker " in line:
                self.markers.setdefault(re.search(r"marker ([a-z]+-\d+)", line)[1], now)
            elif line.startswith("count "):
                self.counts["all"] = int(line.split()[1])
            elif found := re.match(r"\+[IU]\[(\w+), (\d+)\]", line):
                self.counts[found[1]] = int(found[2])
            if self.first is None and sum(self.counts.values()) > 0:
                self.first = (now, cpu(self.process.pid))

    def wait(self, done):
        until = time.monotonic() + PATIENCE
        while not done():
            if self.process.poll() is not None or time.monotonic() > until:
                self.log.seek(0)
                sys.exit(f"the reader ended or is stuck at {self.counts}, {self.markers}:\n{self.log.read()[-3000:]}")
            time.sleep(0.02)

    def measure(self, records, stub):
        self.wait(lambda: sum(self.counts.values()) >= records)
        used, ended, peak = cpu(self.process.pid), time.monotonic(), peak_mib(self.process.pid)
        first_at, first_cpu = self.first
        delays = []
        for number in range(SPLITS):
            markers = stub.split(number)
            self.wait(lambda: all(name in self.markers for name in markers))
            delays += [self.markers[name] - at for name, at in markers.items()]
        rest, rest_at = cpu(self.process.pid), time.monotonic()
        time.sleep(10)
        idle = (cpu(self.process.pid) - rest) / (time.monotonic() - rest_at)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        delays.sort()
        return {
            "first s": first_at - self.began, "CPU s to first": first_cpu, "all read s": ended - self.began,
            "CPU s": used, "CPU s/M": (used - first_cpu) / records * 1e6, "CPU s/M whole": used / records * 1e6,
            "records/s": records / (ended - first_at) if ended > first_at else float("inf"), "peak MiB": peak,
            "child median s": delays[len(delays) // 2], "child worst s": delays[-1], "idle % of a core": 100 * idle,
        }


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tidemill/emulators"
    options.add_argument("--binary", required=True, type=Path, help="the program tidemill")
    options.add_argument("--kcl", required=True, type=Path, help="the venv with kclpy-ext")
    options.add_argument("--dynamodb", default=cache / "dynoxide/bin/dynoxide", type=Path)
    options.add_argument("--records", default=500_000, type=int)
    options.add_argument("--shards", default=8, type=int)
    args = options.parse_args()
    env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    env |= {"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        events = folder / "events.jsonl"
        lines(events, args.records)
        (folder / "job.sql").write_text(JOB)
        jars = f"{next(args.kcl.glob('lib/python3*/site-packages/amazon_kclpy/jars'))}/*"
        subprocess.run(["javac", "-cp", jars, "-d", folder, HERE / "Reader.java"], check=True)
        # KCL's log at the level of warnings.
        (folder / "logback.xml").write_text('<configuration><appender name="E" class="ch.qos.logback.core.ConsoleAppender">'
                                            "<target>System.err</target><encoder><pattern>%msg%n</pattern></encoder></appender>"
                                            '<root level="WARN"><appender-ref ref="E"/></root></configuration>')
        results = {}
        for name in ("KCL 3.1.3, raw", "KCL 3.1.3, parsed by Jackson", "Tidemill, epochs of 1 s", "Tidemill, epochs of 50 ms"):
            stub = Stub(events, args.shards)
            dynamodb = None
            try:
                if name.startswith("KCL"):
                    port = str(random.Random().randrange(20_000, 30_000))
                    dynamodb = subprocess.Popen([args.dynamodb, "serve", "--host", "127.0.0.1", "--port", port],
                                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    time.sleep(1)
                    mode = "parse" if "parsed" in name else "raw"
                    command = ["java", "-Daws.cborEnabled=false", "-cp", f"{jars}:{folder}", "Reader", stub.endpoint,
                               f"http://127.0.0.1:{port}", mode]
                    reader = Reader(command, folder, env)
                else:
                    interval = "50ms" if "50" in name else "1s"
                    command = [args.binary.resolve(), "run", "job.sql", "--from", "trim_horizon", "--epoch-interval", interval]
                    reader = Reader(command, folder, env | {"AWS_ENDPOINT_URL": stub.endpoint})
                try:
                    results[name] = reader.measure(args.records, stub)
                finally:
                    reader.process.kill()
            finally:
                stub.stop()
                if dynamodb:
                    dynamodb.kill()
            print(name, json.dumps({k: round(v, 2) for k, v in results[name].items()}), flush=True)
    columns = list(next(iter(results.values())))
    print(f"\n| | {' | '.join(columns)} |\n|---|{'--:|' * len(columns)}")
    for name, row in results.items():
        print(f"| {name} | {' | '.join(f'{row[c]:,.2f}' for c in columns)} |")


if __name__ == "__main__":
    main()
