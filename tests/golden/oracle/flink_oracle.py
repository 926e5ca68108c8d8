"""A real Flink 2.3, embedded, as the judge of Flink SQL: the expected output of golden queries.

    python3 -m venv VENV && VENV/bin/pip install --no-deps apache-flink-libraries==2.3.0        # and a JDK, 17 or 21
    VENV/bin/python flink_oracle.py job.sql IN OUT [job.sql IN OUT ...]
    VENV/bin/python flink_oracle.py --expressions FILE                       # one SQL expression a line

A job's statements run on a streaming Flink with one task and watermarks that advance with every row. Each table under
${OUT} is written as OUT/<sink>.jsonl: the rows as Flink's JSON format writes them, and "__op" (+I, -U, +U, -D). One
JVM serves all jobs: it starts in 5 s, then a job takes about a second.
"""
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
OPENS = ["java.lang", "java.net", "java.io", "java.nio", "sun.nio.ch", "java.lang.reflect", "java.text", "java.time",
         "java.util", "java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks"]


def jars():
    """The folder of Flink's jars inside the installed pip package, found without importing it."""
    for folder in sys.path:
        found = os.path.join(folder, "pyflink", "lib")
        if os.path.isdir(found):
            return found
    sys.exit("pip install --no-deps apache-flink-libraries==2.3.0 first")


class Oracle:
    """One embedded Flink."""

    def __init__(self):
        library = jars()
        self.classes = tempfile.mkdtemp()
        sources = [os.path.join(HERE, name) for name in ("FlinkOracle.java", "OracleSink.java")]
        compiled = subprocess.run(["javac", "-nowarn", "-cp", f"{library}/*", "-d", self.classes, *sources], stderr=subprocess.PIPE, text=True)
        if compiled.returncode != 0:
            sys.exit(compiled.stderr)
        services = os.path.join(self.classes, "META-INF", "services")
        os.makedirs(services)
        with open(os.path.join(services, "org.apache.flink.table.factories.Factory"), "w") as file:
            file.write("OracleSink\n")
        self.process = subprocess.Popen(
            ["java", "-Xmx2g", *[f"--add-opens=java.base/{p}=ALL-UNNAMED" for p in OPENS], "-Dlog4j2.level=OFF", "-cp",
             f"{self.classes}:{library}/*", "FlinkOracle"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def ask(self, *request):
        """The answer to a request: ("OK", ""), ("VALUE", text) or ("ERROR", message)."""
        self.process.stdin.write("\t".join(part.replace("\t", " ") for part in request) + "\n")
        self.process.stdin.flush()
        while line := self.process.stdout.readline():
            word, _, rest = line.rstrip("\n").partition(" ")
            if word in ("OK", "VALUE", "ERROR"):
                return word, rest
        return "ERROR", "Flink's process ended"

    def run(self, job, inputs, output):
        """None when the job went well, else Flink's message."""
        word, rest = self.ask(*(os.path.abspath(path) for path in (job, inputs, output)))
        return rest if word == "ERROR" else None

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        shutil.rmtree(self.classes)


def main():
    oracle, failed = Oracle(), False
    if sys.argv[1] == "--expressions":
        for text in open(sys.argv[2], encoding="utf-8"):
            if text.strip() and not text.startswith("#"):
                word, answer = oracle.ask("EXPRESSION", text.strip())
                print(text.strip(), answer if word == "VALUE" else f"{word}\t{answer}", sep="\t", flush=True)
    else:
        for job, inputs, output in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3]):
            problem = oracle.run(job, inputs, output)
            failed |= problem is not None
            print(job, "OK" if problem is None else f"ERROR {problem}")
    oracle.close()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
