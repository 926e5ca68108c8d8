#!/usr/bin/env python3
"""State larger than memory: the same job with more and with less --memory gives the same, and stays within it.

    python3 benches/memory.py target/release/tidemill [--records 6000000] [--keys 3000000] [--memory 8GiB 1GiB 512MiB 256MiB]

The job keeps a running aggregate of all keys, and hourly windows with a distinct count of each key. For each size: seconds,
CPU seconds, the most anonymous memory seen (RssAnon, each 50 ms), bytes of state put on disk, and a digest of all results,
which must be the same.
"""

import argparse
import hashlib
import os
import pathlib
import random
import re
import resource
import subprocess
import sys
import tempfile
import time

SQL = """
CREATE TABLE events (user_id STRING, n BIGINT, ts BIGINT, page STRING,
  at AS TO_TIMESTAMP_LTZ(ts, 3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${IN}', 'format' = 'json');
CREATE TABLE users (user_id STRING, c BIGINT, total BIGINT, last_page STRING, PRIMARY KEY (user_id) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/users', 'format' = 'json');
CREATE TABLE hours (user_id STRING, w TIMESTAMP(3), c BIGINT, pages BIGINT)
WITH ('connector' = 'filesystem', 'path' = '${OUT}/hours', 'format' = 'json');
INSERT INTO users SELECT user_id, COUNT(*), SUM(n), MAX(page) FROM events GROUP BY user_id HAVING COUNT(*) > 8;
INSERT INTO hours SELECT user_id, window_start, COUNT(*), COUNT(DISTINCT page)
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(at), INTERVAL '1' HOUR))
GROUP BY window_start, window_end, user_id HAVING COUNT(*) > 5;
"""


def generate(folder: pathlib.Path, records: int, keys: int) -> None:
    """Two hours of events of random users, in four files."""
    chance = random.Random(1)
    files = [open(folder / f"shard-{n}.jsonl", "w", buffering=1 << 20) for n in range(4)]
    start, step = 1_767_225_600_000, 2 * 3_600_000 / records
    for n in range(records):
        key = chance.randrange(keys)
        files[n & 3].write(
            '{"user_id":"user-%09d-%06x","n":%d,"ts":%d,"page":"/a/page/%d"}\n'
            % (key, key * 7919 % 16777216, n % 1000, start + int(n * step), key % 97)
        )
    for file in files:
        file.close()


def anonymous(pid: int) -> int:
    try:
        for line in open(f"/proc/{pid}/status"):
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def digest(folder: pathlib.Path) -> str:
    """Of the last line of each key (users), and of all lines (hours)."""
    users, lines = {}, []
    for path in sorted(folder.rglob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns):
        for line in open(path):
            if "/users/" in str(path):
                users[line.split('"')[3]] = line
            else:
                lines.append(line)
    hasher = hashlib.sha256()
    for line in sorted(users.values()) + sorted(lines):
        hasher.update(line.encode())
    return f"{hasher.hexdigest()[:12]} ({len(users)} users, {len(lines)} windows)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--records", type=int, default=6_000_000)
    parser.add_argument("--keys", type=int, default=3_000_000)
    parser.add_argument("--memory", nargs="+", default=["8GiB", "1GiB", "512MiB", "256MiB"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        top = pathlib.Path(folder)
        (top / "in").mkdir()
        (top / "job.sql").write_text(SQL)
        generate(top / "in", args.records, args.keys)
        digests = set()
        print(f"{args.records} records, {args.keys} keys, {sum(f.stat().st_size for f in (top / 'in').iterdir()) >> 20} MiB")
        print("| --memory | s | CPU s | most anonymous MiB | on disk | results |\n|---|--:|--:|--:|--:|---|")
        for size in args.memory:
            out = top / f"out-{size}"
            command = [args.program, "run", top / "job.sql", "--local", top / f"local-{size}", "--drain", "--memory", size]
            command += ["--param", f"IN={top / 'in'}", "--param", f"OUT={out}"]
            before, began, most = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), 0
            log = open(top / f"log-{size}", "w+")
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "RUST_LOG": "warn"})
            while process.poll() is None:
                most = max(most, anonymous(process.pid))
                time.sleep(0.05)
            took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
            log.seek(0)
            said = log.read()
            if process.returncode != 0:
                print(f"| {size} | failed | | {most >> 20} | | {' '.join(said.strip().splitlines()[-2:])} |")
                digests.add(size)
                continue
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            spilled = re.search(r"memory: (.*) of state", said)
            found = digest(out)
            digests.add(found)
            on_disk = spilled[1] if spilled else "none"
            print(f"| {size} | {took:.1f} | {cpu:.1f} | {most >> 20} | {on_disk} | {found} |", flush=True)
    return 0 if len(digests) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
