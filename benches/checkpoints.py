#!/usr/bin/env python3
"""What checkpoints cost: CPU seconds of the shipped job with one each 10 s and with none but the last, in interleaved pairs.

    python3 benches/peers/generate.py --help            # makes the events
    python3 benches/checkpoints.py target/release/tidemill EVENTS.jsonl [--pairs 10] [--interval 10s] [--epoch-rows N]

EVENTS.jsonl is sent to a local stream once, outside of the measurement. Each run works on a copy of the folder (hard links
for the stream, which nothing writes to) and reads all of it with --drain. Measured is user + system time of the process
(wait4), so that waiting for the disk does not count. A run should last for several intervals: a pair whose run with checkpoints
made fewer than four is left out, and counted; if more than half of the pairs are, the script fails.

Printed for each pair: both times, and what of each was the kernel's, the share by which the one with checkpoints is dearer, how
many checkpoints it made and what they wrote; at the end the median share and the quartiles, and how many pairs were left out.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile


# Checkpoints that a run must have made for its pair to count.
LEAST = 4


def run(args, template, interval):
    """CPU seconds of a run, those of the kernel among them, and what the run says of its checkpoints."""
    local = tempfile.mkdtemp(dir=os.path.dirname(template))
    os.rmdir(local)
    shutil.copytree(template, local, copy_function=os.link)
    command = [args.binary, "run", args.queries, "--local", local, "--drain", "--checkpoint-interval", interval]
    command += ["--epoch-rows", args.epoch_rows] if args.epoch_rows else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    text = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    shutil.rmtree(local)
    if status != 0:
        sys.exit(f"{' '.join(command)} failed: {text}")
    return usage.ru_utime + usage.ru_stime, usage.ru_stime, re.search(r"checkpoints: (\d+).*", text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("events")
    parser.add_argument("--queries", default="queries")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--interval", default="10s")
    parser.add_argument("--epoch-rows", help="to try the script on a few events")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        template = os.path.join(folder, "template")
        produce = [args.binary, "produce", "analytics-events", "--local", template, "--from", args.events,
                   "--partition-key", "data.user_id"]
        subprocess.run(produce, check=True, stdout=subprocess.DEVNULL)
        # What is read is to stay in the page cache, so the events themselves must go: they are not needed any more.
        with open(args.events, "rb") as events:
            os.posix_fadvise(events.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        run(args, template, "0")
        shares, short = [], 0
        for pair in range(args.pairs):
            # The one that comes first changes, so that a drift of the machine falls on both.
            order = [args.interval, "0"] if pair % 2 else ["0", args.interval]
            found = {interval: run(args, template, interval) for interval in order}
            (on, on_kernel, said), (off, off_kernel, _) = found[args.interval], found["0"]
            share = on / off - 1
            made = int(said.group(1)) if said else 0
            counts = made >= LEAST
            shares += [share] if counts else []
            short += not counts
            told = said.group(0) if said else "no checkpoints"
            print(f"{off:7.2f} s ({off_kernel:.2f} kernel) without, {on:7.2f} s ({on_kernel:.2f}) with: {100 * share:+5.1f} %   ({told})"
                  + ("" if counts else "   left out"), flush=True)
        if shares:
            low, middle, high = statistics.quantiles(shares, n=4) if len(shares) > 1 else shares * 3
            print(f"median {100 * middle:+.1f} %, quartiles {100 * low:+.1f} % and {100 * high:+.1f} %, of {len(shares)} pairs")
        if short:
            print(f"{short} of {args.pairs} pairs were left out: fewer than {LEAST} checkpoints")
        if 2 * len(shares) < args.pairs:
            sys.exit("too few are left: take more events, or a shorter --interval")


if __name__ == "__main__":
    main()
