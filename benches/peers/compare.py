#!/usr/bin/env python3
"""Tidemill and its peers, side by side: the same events, the same queries, the same machine, the same hour.

    python3 compare.py CACHE [--events 5000000] [--queries q1,q2,q3,q4,q5] [--systems tidemill,duckdb,flink] [--repeat 3]
                       [--binary ../../target/release/tidemill] [--results RESULTS.jsonl]

CACHE is any folder: events (made once, seeded), the peers' Python environments (made once with pip) and results lie there.
Flink needs a JDK, 17 or 21. Prints for each query wall and CPU seconds (user + system, all threads), peak resident and
peak anonymous memory, events per CPU second and Tidemill's ratios; exits 1 when a checksum differs or a run fails.

What is measured. Tidemill: the whole process, from its start to its exit, results written to files. DuckDB (batch.py): the
query alone, without the start of Python, result in memory. Flink (flink/run.py): the job alone, without the start
of the JVM, results to a black hole (its checksums: flink/run.py --check). So the peers are favoured. Each run is a fresh process,
systems take turns, and the run with the least CPU time counts. `other` is how many cores foreign processes kept busy
in that run: above 0.2, measure again.
"""
import argparse
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
QUERIES = ["q1", "q2", "q3", "q4", "q5"]
PACKAGES = {
    "peers": [["duckdb==2.0.0", "pyarrow>=26", "numpy>=2.4,<2.5"]],
    "flink": [["--no-deps", "apache-flink-libraries==2.3.0"], ["pyarrow>=26", "numpy>=2.4,<2.5"]],
}
TARGETS = {"duckdb": 2, "flink": 20}


def python(cache, name):
    """The interpreter of an environment in the cache, made on first use."""
    folder = os.path.join(cache, "venv-" + name)
    interpreter = os.path.join(folder, "bin", "python")
    if not os.path.exists(os.path.join(folder, "complete")):
        print(f"making {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        for packages in PACKAGES[name]:
            subprocess.run([interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)
        open(os.path.join(folder, "complete"), "w").close()
    return interpreter


def make_events(cache, count):
    """Folder of the events: two files, dealt out by user as shards are, so that Flink loses no rows as late."""
    folder = os.path.join(cache, f"events-{count}")
    if not os.path.exists(os.path.join(folder, "complete")):
        print(f"making {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python(cache, "peers"), os.path.join(HERE, "generate.py"), str(count), "2", folder, "--layout", "shards"], check=True)
        open(os.path.join(folder, "complete"), "w").close()
    for name in glob.glob(os.path.join(folder, "json", "*")):  # into the page cache
        with open(name, "rb") as file:
            while file.read(1 << 24):
                pass
    return folder


class Memory(threading.Thread):
    """Polls the anonymous resident memory of a process and its descendants; `peak_mb` is the largest sum seen."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak_mb, self.stopped = pid, 0.0, threading.Event()

    def run(self):
        while not self.stopped.wait(0.01):
            self.peak_mb = max(self.peak_mb, sum(map(self.anonymous_mb, self.family())))

    def family(self):
        found, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            for children in glob.glob(f"/proc/{pid}/task/*/children"):
                try:
                    waiting += map(int, open(children).read().split())
                except OSError:
                    pass
        return found

    @staticmethod
    def anonymous_mb(pid):
        try:
            for line in open(f"/proc/{pid}/status"):
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) / 1024
        except OSError:
            pass
        return 0.0


def busy_s():
    """CPU seconds that the whole machine has spent so far, on anyone's work."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def measure(command):
    """Runs a command: its times, memory and output."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        busy, began = busy_s(), time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, text=True)
        memory = Memory(process.pid)
        memory.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        memory.stopped.set()
        memory.join()
        cpu = usage.ru_utime + usage.ru_stime
        out.seek(0)
        err.seek(0)
        return {"code": process.returncode, "out": out.read(), "err": err.read(), "wall_s": wall, "cpu_s": cpu,
                "rss_mb": usage.ru_maxrss / 1024, "anon_mb": memory.peak_mb, "other": max(busy_s() - busy - cpu, 0) / wall}


def failed(done):
    return {"failed": ((done["err"].strip() or done["out"].strip() or "no message").splitlines())[-1][:300]}


def run_tidemill(args, events, query):
    work = tempfile.mkdtemp(dir=args.cache)
    output = os.path.join(work, "out")
    try:
        done = measure([args.binary, "run", os.path.join(HERE, f"{query}.sql"), "--drain", "--local", os.path.join(work, "local"),
                        "--param", f"IN={os.path.join(events, 'json')}", "--param", f"OUT={output}"])
        if done["code"] != 0:
            return failed(done)
        checked = subprocess.run([python(args.cache, "peers"), os.path.abspath(__file__), "--checksum", query, output], capture_output=True, text=True)
        if checked.returncode != 0:
            return {"failed": "checksum: " + checked.stderr.strip().splitlines()[-1]}
        rows, digest = checked.stdout.split()
        return {**{k: done[k] for k in ("wall_s", "cpu_s", "rss_mb", "anon_mb", "other")}, "rows": int(rows), "checksum": digest}
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run_peer(command, query):
    """A peer prints one JSON line with its own times; memory is measured from outside."""
    done = measure(command)
    lines = [json.loads(line) for line in done["out"].splitlines() if line.startswith("{")]
    if done["code"] != 0 or not lines or "failed" in lines[-1]:
        return failed(done)
    line = lines[-1]
    return {"wall_s": line["wall_s"], "cpu_s": line["cpu_s"], "rss_mb": line["rss_mb"], "anon_mb": done["anon_mb"],
            "other": line.get("other_cores", 0), "version": line["version"], "rows": line.get("rows"), "checksum": line.get("checksum")}


def run_duckdb(args, events, query):
    return run_peer([python(args.cache, "peers"), os.path.join(HERE, "batch.py"), events, "--format", "json", "--engines", "duckdb",
                     "--queries", query, "--one", "--events", str(args.events)], query)


def run_flink(args, events, query):
    return run_peer([python(args.cache, "flink"), os.path.join(HERE, "flink", "run.py"), events, "--queries", query], query)


RUNS = {"tidemill": run_tidemill, "duckdb": run_duckdb, "flink": run_flink}


def print_checksum(query, output):
    """Rows and digest of what Tidemill wrote (runs in the peers' environment)."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from harness import checksum

    files = sorted(f for f in glob.glob(f"{output}/**/*", recursive=True) if os.path.isfile(f))
    if query == "q4":  # a change log: the last line of a key is its value
        state = {}
        for name in files:
            for text in open(name, encoding="utf-8"):
                row = json.loads(text)
                key = tuple(row[c] for c in ("event_type", "day", "hour", "page", "code"))
                if row.pop("__op", None) == "delete":
                    state.pop(key, None)
                else:
                    state[key] = row
        rows = list(state.values())
        columns = {"event_type": pa.string(), "day": pa.string(), "hour": pa.int64(), "page": pa.string(), "code": pa.string(),
                   "n": pa.int64(), "cents": pa.int64(), "message": pa.string()}
        table = pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in columns.items()})
        table = table.set_column(1, "day", table["day"].cast(pa.date32()))
    else:
        table = pa.concat_tables([pq.read_table(name) for name in files])
    print(*checksum(table))


def main():
    if sys.argv[1:2] == ["--checksum"]:
        return print_checksum(*sys.argv[2:4])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=os.path.abspath, help="folder for events, environments and results")
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--queries", default=",".join(QUERIES))
    parser.add_argument("--systems", default="tidemill,duckdb,flink")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; Flink runs once (it is slow, and steady)")
    parser.add_argument("--binary", type=os.path.abspath, default=os.path.join(HERE, "..", "..", "target", "release", "tidemill"))
    parser.add_argument("--results", type=os.path.abspath, help="append each run as a JSON line")
    args = parser.parse_args()
    os.makedirs(args.cache, exist_ok=True)
    events, systems, problems = make_events(args.cache, args.events), args.systems.split(","), []
    print(f"{args.events:,} events of {os.path.join(events, 'json')}\n")
    print("| query | system | wall s | CPU s | M events/CPU-s | peak RSS MB | anonymous MB | other | rows | checksum | Tidemill is |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|---|---|")
    for query in args.queries.split(","):
        best = {}
        for turn in range(args.repeat):
            for system in systems:
                if system == "flink" and turn > 0:
                    continue
                run = RUNS[system](args, events, query)
                if args.results:
                    with open(args.results, "a") as file:
                        file.write(json.dumps({"system": system, "query": query, "events": args.events, **run}) + "\n")
                if "failed" in run:
                    problems.append(f"{query} {system}: {run['failed']}")
                elif system not in best or run["cpu_s"] < best[system]["cpu_s"]:
                    best[system] = run
        for system, run in best.items():
            versus = ""
            if system in TARGETS and "tidemill" in best:
                ratio = run["cpu_s"] / best["tidemill"]["cpu_s"]
                versus = f"{ratio:.1f}x (wanted {TARGETS[system]}x{'' if ratio >= TARGETS[system] else ', missed'})"
            print(f"| {query} | {system} {run.get('version', '')} | {run['wall_s']:.2f} | {run['cpu_s']:.2f} | {args.events / run['cpu_s'] / 1e6:.3f} "
                  f"| {run['rss_mb']:.0f} | {run['anon_mb']:.0f} | {run['other']:.2f} | {run.get('rows') or ''} | {run.get('checksum') or ''} | {versus} |", flush=True)
        sums = {run["checksum"] for run in best.values() if run.get("checksum")}
        if len(sums) > 1:
            problems.append(f"{query}: checksums differ: " + ", ".join(f"{s} {r['checksum']}" for s, r in best.items() if r.get("checksum")))
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
