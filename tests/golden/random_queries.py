#!/usr/bin/env python3
"""Queries by chance, asked of Tidemill and of a real Flink: who finds another answer has found a defect.

    python3 -m venv VENV && VENV/bin/pip install --no-deps apache-flink-libraries==2.3.0      # and a JDK, 17 or 21
    VENV/bin/python random_queries.py BINARY [--seed 1] [--jobs 20] [--queries 8] [--keep FOLDER]

A job is `--queries` INSERTs over the tables of `inputs/`, made by `query_forms.py`. Tidemill runs all of them as one job, in epochs of
few rows; Flink runs them too, and what it refuses is left out. Prints each query whose rows differ, or that Tidemill refuses and Flink
does not, and exits 1 if rows differ. The same seed makes the same jobs.
"""
import argparse
import collections
import glob
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "oracle")]

from flink_oracle import Oracle  # noqa: E402
from query_forms import Forms  # noqa: E402
from regenerate import reduce  # noqa: E402

INPUTS = os.path.join(HERE, "inputs")


def flink_rows(folder, sink):
    """What is left of what Flink gave."""
    path = os.path.join(folder, f"{sink.name}.jsonl")
    return left([path] if os.path.exists(path) else [], sink)


def tidemill_rows(folder, sink):
    files = sorted(glob.glob(os.path.join(folder, sink.name, "**", "*"), recursive=True), key=made)
    return left(filter(os.path.isfile, files), sink)


def left(files, sink):
    """Rows as they came, or the last of each key."""
    lines = [line for name in files for line in open(name, encoding="utf-8").read().splitlines()]
    return [json.loads(line) for line in reduce(lines, sink.key)]


def made(name):
    """Files of a sink in the order in which they were made: `part-<job>-<run>-<number>-e<epoch>`."""
    return [int(word.lstrip("e")) if word.lstrip("e").isdigit() else 0 for word in os.path.basename(name).split(".")[0].split("-")[-3:]]


def order(row):
    """Equal for rows that are the same but for the last digits of a number."""
    return json.dumps({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}, sort_keys=True)


def same(a, b):
    if isinstance(a, (int, float)) and isinstance(b, (int, float)) and not isinstance(a, bool) and not isinstance(b, bool):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    return a == b


def difference(wanted, found):
    """A few lines on how rows differ; None when they do not."""
    wanted, found = sorted(wanted, key=order), sorted(found, key=order)
    if len(wanted) == len(found) and all(map(same, wanted, found)):
        return None
    missing, extra = list(map(order, wanted)), list(map(order, found))
    only_wanted = collections.Counter(missing) - collections.Counter(extra)
    only_found = collections.Counter(extra) - collections.Counter(missing)
    lines = [f"    {len(wanted)} rows of Flink, {len(found)} of Tidemill"]
    lines += [f"    Flink alone:    {row}" for row in list(only_wanted)[:4]] + [f"    Tidemill alone: {row}" for row in list(only_found)[:4]]
    return "\n".join(lines)


class Asked:
    """One Flink, and a program, asked the same."""

    def __init__(self, binary, seed, tells):
        self.binary, self.oracle, self.random, self.tells = binary, Oracle(), random.Random(seed), tells

    def flink(self, forms, queries, folder):
        """Names of the queries that Flink answers. Where it refuses a job, each query is asked alone."""
        path = os.path.join(folder, "job.sql")
        write(path, forms.job(queries))
        problem = self.oracle.run(path, INPUTS, folder)
        if problem is None:
            return {query.sink.name for query in queries}
        if len(queries) == 1:
            if self.tells:
                print(f"Flink refuses {queries[0].text}\n    {problem[:400]}\n", flush=True)
            return set()
        # Those before the one that is refused may have been answered.
        for answer in glob.glob(os.path.join(folder, "*.jsonl")):
            os.remove(answer)
        return set().union(*(self.flink(forms, [query], folder) for query in queries))

    def tidemill(self, forms, queries, folder):
        """None, or what the program says against the job."""
        path = os.path.join(folder, "job.sql")
        write(path, forms.job(queries))
        rows, threads = self.random.choice([1_000, 50, 7]), self.random.choice([1, 2])
        done = subprocess.run([self.binary, "run", path, "--drain", "--local", os.path.join(folder, "local"), "--epoch-rows", str(rows), "--threads", str(threads),
                               "--param", f"IN={INPUTS}", "--param", f"OUT={folder}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return None if done.returncode == 0 else done.stdout.strip()


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=os.path.abspath)
    parser.add_argument("--seed", type=int, default=1, help="of the first job")
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--queries", type=int, default=8, help="INSERTs of a job")
    parser.add_argument("--keep", help="folder for jobs of which an answer differs")
    parser.add_argument("--refusals", action="store_true", help="show what Flink refuses, too")
    args = parser.parse_args()
    asked, counts = Asked(args.binary, args.seed, args.refusals), collections.Counter()
    for seed in range(args.seed, args.seed + args.jobs):
        forms = Forms(random.Random(seed))
        queries = [forms.query(number) for number in range(args.queries)]
        flink, ours = tempfile.mkdtemp(), tempfile.mkdtemp()
        answered = asked.flink(forms, queries, flink)
        counts["refused by Flink"] += len(queries) - len(answered)
        queries = [query for query in queries if query.sink.name in answered]
        refusal, bad = queries and asked.tidemill(forms, queries, ours), []
        if refusal:
            # Who is refused? The others are asked together.
            refused = set()
            for query in queries:
                alone = tempfile.mkdtemp()
                said = asked.tidemill(forms, [query], alone)
                if said:
                    refused.add(query.sink.name)
                    counts["refused by Tidemill"] += 1
                    print(f"{seed}: {query.sink.name} is refused\n{query.text}\n    {said}\n", flush=True)
                shutil.rmtree(alone)
            queries = [query for query in queries if query.sink.name not in refused]
            shutil.rmtree(ours)
            ours = tempfile.mkdtemp()
            refusal = queries and asked.tidemill(forms, queries, ours)
            if refusal or not refused:
                bad.append("job")
                print(f"{seed}: only together they are refused\n    {refusal}\n{forms.job(queries)}", flush=True)
                queries = []
        for query in queries:
            wanted = flink_rows(flink, query.sink)
            said = difference(wanted, tidemill_rows(ours, query.sink))
            counts["compared"] += 1
            counts["rows"] += len(wanted)
            counts["without rows"] += not wanted
            if said:
                bad.append(query.sink.name)
                print(f"{seed}: {query.sink.name} differs\n{query.text}\n{said}\n", flush=True)
        counts["different"] += len(bad)
        if bad and args.keep:
            for name, folder in [("flink", flink), ("tidemill", ours)]:
                shutil.copytree(folder, os.path.join(args.keep, str(seed), name), dirs_exist_ok=True)
        shutil.rmtree(flink)
        shutil.rmtree(ours)
    asked.oracle.close()
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return int(counts["different"] > 0)


if __name__ == "__main__":
    sys.exit(main())
