#!/usr/bin/env python3
"""How long a job takes to go on from a large state: from the start of the program until it runs.

    python3 benches/recover.py target/release/tidemill [--keys 8000000] [--runs 5] [--store s3://bucket/prefix] [--memory 1GiB]

Makes a job with one running aggregate over so many keys (some 130 bytes of state each: 8 million are about 1 GiB), runs it
to its first checkpoint, and then starts it again with nothing new to read (--once). Such a run restores the state, ends, and writes
one more manifest; the same job with no state is run too, and its time is taken off. The state lies in a folder, or in the store that is named
(AWS_ENDPOINT_URL_S3 for an emulator). With --memory the program has so much: less than the state, so most of that goes to its local disk.

Printed: bytes of state as `tidemill state list` counts them, median and spread of the wall time, and the most memory.
"""

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

SQL = """
CREATE TABLE events (k BIGINT, t STRING) WITH ('connector' = 'datagen', 'rows-per-second' = '100000000',
  'number-of-rows' = '{keys}', 'fields.k.kind' = 'sequence', 'fields.k.start' = '1', 'fields.k.end' = '{keys}', 'fields.t.length' = '64');
CREATE TABLE nothing (k BIGINT, n BIGINT, t STRING, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'blackhole');
INSERT INTO nothing SELECT k, COUNT(*), MAX(t) FROM events GROUP BY k;
"""


def run(binary, folder, store, memory):
    """Wall seconds of a run, what it says, and the most memory of any run so far in KiB."""
    began = time.monotonic()
    command = [binary, "run", "job.sql", "--once", "--checkpoints", store, *(["--memory", memory] if memory else [])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed: {done.stdout}{done.stderr}")
    return time.monotonic() - began, done.stdout, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def job(folder, keys):
    with open(os.path.join(folder, "job.sql"), "w") as file:
        file.write(SQL.format(keys=keys))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=os.path.abspath)
    parser.add_argument("--keys", type=int, default=8_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--store")
    parser.add_argument("--memory")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = args.store or os.path.join(folder, "kept")
        job(folder, 1)
        run(args.binary, folder, os.path.join(folder, "empty"), args.memory)
        empty = statistics.median(run(args.binary, folder, os.path.join(folder, "empty"), args.memory)[0] for _ in range(args.runs))
        job(folder, args.keys)
        first, said, most = run(args.binary, folder, store, args.memory)
        if not said.startswith(f"{args.keys} records"):
            sys.exit(f"the first run must read everything: {said}")
        listed = subprocess.run([args.binary, "state", "show", f"{store}/job"], capture_output=True, text=True, check=True).stdout
        size = int(re.search(r"(\d+) bytes in \d+ files", listed).group(1))
        print(f"{args.keys} keys, {size / 2**20:.0f} MiB of state; first run {first:.1f} s, {most / 2**20:.2f} GiB of memory at most")
        times = []
        for _ in range(args.runs):
            seconds, said, _ = run(args.binary, folder, store, args.memory)
            if not said.startswith("0 records"):
                sys.exit(f"nothing should be left to read: {said}")
            times.append(seconds - empty)
        print(f"going on: median {statistics.median(times):.2f} s, from {min(times):.2f} to {max(times):.2f} s "
              f"({empty:.2f} s of an empty job taken off), {size / 2**20 / statistics.median(times):.0f} MiB/s")


if __name__ == "__main__":
    main()
