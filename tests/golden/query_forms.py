"""Queries of Flink SQL by chance, over the tables of `inputs/`: for `random_queries.py`.

An expression is made for a wanted type, a form (windows, running aggregates, rankings, …) over a source (a table, a view, a union), so every
query is well typed. What has no single answer is left out: the order of rows, the last of equal ones, sums that overflow, divisions by zero.
"""
from dataclasses import dataclass, field

INT, BIGINT, DOUBLE, DECIMAL, STRING, BOOLEAN = "INT", "BIGINT", "DOUBLE", "DECIMAL(12, 2)", "STRING", "BOOLEAN"
TIME = "TIMESTAMP(3)"
TYPES = [INT, INT, DOUBLE, DECIMAL, STRING, STRING, BOOLEAN, TIME]


@dataclass
class Table:
    """A table of `inputs/`: what can be read of it, by type, its time, and what tells its rows apart."""
    name: str
    ddl: str
    columns: dict
    time: str
    id: str
    local: bool = True  # its time is a TIMESTAMP(3), not a TIMESTAMP_LTZ(3)


CLICKS = Table("clicks", """CREATE TABLE clicks (
  id INT, user_id STRING, page STRING, country STRING, duration INT, score DOUBLE, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/clicks', 'format' = 'json');""",
               {INT: ["id", "duration"], STRING: ["user_id", "page", "country"], DOUBLE: ["score"], TIME: ["ts"]}, "ts", "id")
ORDERED = Table("ordered", """CREATE TABLE ordered (id INT, page STRING, duration INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${IN}/ordered', 'format' = 'json');""", {INT: ["id", "duration"], STRING: ["page"], TIME: ["ts"]}, "ts", "id")
LATE = Table("late", """CREATE TABLE late (id INT, page STRING, duration INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
WITH ('connector' = 'filesystem', 'path' = '${IN}/late', 'format' = 'json');""", {INT: ["id", "duration"], STRING: ["page"], TIME: ["ts"]}, "ts", "id")
ORDERS = Table("orders", """CREATE TABLE orders (
  order_id STRING, user_id STRING, product STRING, amount DECIMAL(10, 2), quantity INT, currency STRING, `time` TIMESTAMP_LTZ(3),
  WATERMARK FOR `time` AS `time` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/orders', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');""",
               {INT: ["quantity"], STRING: ["order_id", "user_id", "product", "currency"], DECIMAL: ["CAST(amount AS DECIMAL(12, 2))"],
                TIME: ["CAST(`time` AS TIMESTAMP(3))"]}, "`time`", "order_id", False)
EVENTS = Table("events", """CREATE TABLE events (
  event_id STRING, event_type STRING, `timestamp` TIMESTAMP_LTZ(3),
  data ROW<user_id STRING, page STRING, amount DECIMAL(10, 2), error_code STRING, message STRING, device ROW<kind STRING, screen ROW<width INT, height INT>>, tags ARRAY<STRING>>,
  WATERMARK FOR `timestamp` AS `timestamp` - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = '${IN}/events', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');""",
               {INT: ["data.device.screen.width", "CARDINALITY(data.tags)"],
                STRING: ["event_id", "event_type", "data.user_id", "data.page", "data.error_code", "data.message", "data.device.kind", "data.tags[1]"],
                DECIMAL: ["CAST(data.amount AS DECIMAL(12, 2))"], BOOLEAN: ["data IS NULL"], TIME: ["CAST(`timestamp` AS TIMESTAMP(3))"]},
               "`timestamp`", "event_id", False)
ALL = [CLICKS, CLICKS, ORDERED, LATE, ORDERS, EVENTS, EVENTS]
PRODUCTS = """CREATE TABLE products (product STRING, name STRING, category STRING, margin DECIMAL(5, 4))
WITH ('connector' = 'filesystem', 'path' = '${IN}/products', 'format' = 'csv');"""


@dataclass
class Sink:
    name: str
    columns: list
    key: list = None

    def ddl(self):
        columns = [f"{name} {kind}" for name, kind in self.columns]
        key = [f"PRIMARY KEY ({', '.join(self.key)}) NOT ENFORCED"] if self.key else []
        return f"CREATE TABLE {self.name} ({', '.join(columns + key)})\nWITH ('connector' = 'filesystem', 'path' = '${{OUT}}/{self.name}', 'format' = 'json');"


@dataclass
class Query:
    sink: Sink
    text: str
    views: list = field(default_factory=list)


@dataclass
class Source:
    """Something with columns: by type, what can be read of them."""
    name: str
    columns: dict
    time: str
    id: str
    local: bool
    views: list = field(default_factory=list)


class Expressions:
    """Expressions over columns."""

    def __init__(self, rng, columns):
        self.rng, self.columns = rng, columns

    def any(self, depth=2):
        kind = self.rng.choice(TYPES)
        return self.of(kind, depth), kind

    def of(self, kind, depth=2):
        columns = self.columns.get(kind, [])
        if depth <= 0 or self.rng.random() < 0.25:
            if columns and self.rng.random() < 0.92:
                return self.rng.choice(columns)
            return self.literal(kind)
        if self.rng.random() < 0.25:
            return self.choice_of(kind, depth - 1)
        return {INT: self.int, DOUBLE: self.double, DECIMAL: self.decimal, STRING: self.string, BOOLEAN: self.condition, TIME: self.moment}[kind](depth - 1)

    def literal(self, kind):
        rng = self.rng
        return {INT: lambda: str(rng.choice([0, 1, 2, 3, 7, 10, -5])),
                DOUBLE: lambda: rng.choice(["0e0", "2.5e0", "-1.5e0", "50e0"]), DECIMAL: lambda: f"CAST({rng.choice(['0', '12.5', '-3.25', '100'])} AS DECIMAL(12, 2))",
                STRING: lambda: rng.choice(["'/'", "'/a'", "'DE'", "'u1'", "''", "'x y'", "'page_view'", "'EUR'"]),
                BOOLEAN: lambda: rng.choice(["TRUE", "FALSE", "CAST(NULL AS BOOLEAN)"]),
                TIME: lambda: f"TIMESTAMP '2026-02-12 10:{rng.randrange(10):02d}:{rng.choice(['00', '30.5', '59.999'])}'"}[kind]()

    def choice_of(self, kind, depth):
        """What there is of every type."""
        rng, of = self.rng, self.of
        form = rng.randrange(6)
        if form == 0:
            return f"COALESCE({of(kind, depth)}, {of(kind, depth)})"
        if form == 1:
            return f"CASE WHEN {self.condition(depth)} THEN {of(kind, depth)} ELSE {of(kind, depth)} END"
        if form == 2:
            return f"CASE WHEN {self.condition(depth)} THEN {of(kind, depth)} WHEN {self.condition(depth)} THEN {of(kind, depth)} END"
        if form == 3 and kind != BOOLEAN:
            return f"NULLIF({of(kind, depth)}, {of(kind, 0)})"
        if form == 4:
            return f"IF({self.condition(depth)}, {of(kind, depth)}, {of(kind, depth)})"
        return f"IFNULL({of(kind, depth)}, {of(kind, 0)})"

    def int(self, depth):
        rng, of = self.rng, self.of
        return rng.choice([
            lambda: f"({of(INT, depth)} + {of(INT, depth)})", lambda: f"({of(INT, depth)} - {of(INT, depth)})", lambda: f"({of(INT, 0)} * {rng.randrange(1, 9)})",
            lambda: f"MOD({of(INT, depth)}, {rng.choice([2, 3, 7])})", lambda: f"({of(INT, depth)} / {rng.choice([2, 3, -4])})", lambda: f"ABS({of(INT, depth)})",
            lambda: f"CHAR_LENGTH({of(STRING, depth)})", lambda: f"POSITION({self.literal(STRING)} IN {of(STRING, depth)})", lambda: f"TRY_CAST({of(STRING, depth)} AS INT)",
            lambda: f"CAST(EXTRACT({rng.choice(['MINUTE', 'SECOND', 'HOUR', 'DOY'])} FROM {of(TIME, depth)}) AS INT)",
            lambda: f"TIMESTAMPDIFF({rng.choice(['SECOND', 'MINUTE', 'DAY'])}, {of(TIME, depth)}, {of(TIME, 0)})", lambda: f"CAST({of(DOUBLE, depth)} AS INT)",
            lambda: f"(0 - {of(INT, depth)})", lambda: f"GREATEST({of(INT, depth)}, {of(INT, depth)})", lambda: f"ASCII({of(STRING, depth)})"])()

    def double(self, depth):
        rng, of = self.rng, self.of
        return rng.choice([
            lambda: f"({of(DOUBLE, depth)} + {of(DOUBLE, depth)})", lambda: f"({of(DOUBLE, depth)} * {of(DOUBLE, 0)})", lambda: f"({of(DOUBLE, depth)} / {rng.choice(['4e0', '-0.5e0'])})",
            lambda: f"CAST({of(INT, depth)} AS DOUBLE)", lambda: f"ROUND({of(DOUBLE, depth)}, {rng.randrange(3)})", lambda: f"ABS({of(DOUBLE, depth)})", lambda: f"FLOOR({of(DOUBLE, depth)})",
            lambda: f"CEIL({of(DOUBLE, depth)})", lambda: f"SQRT(ABS({of(DOUBLE, depth)}))", lambda: f"SIGN({of(DOUBLE, depth)})", lambda: f"CAST({of(DECIMAL, depth)} AS DOUBLE)",
            lambda: f"({of(INT, depth)} * {of(DOUBLE, 0)})", lambda: f"TRY_CAST({of(STRING, depth)} AS DOUBLE)"])()

    def decimal(self, depth):
        rng, of = self.rng, self.of
        made = rng.choice([
            lambda: f"({of(DECIMAL, depth)} + {of(DECIMAL, 0)})", lambda: f"({of(DECIMAL, depth)} - {of(DECIMAL, 0)})", lambda: f"({of(DECIMAL, 0)} * {rng.choice(['0.19', '2', '1.5'])})",
            lambda: f"ROUND({of(DECIMAL, depth)}, 1)", lambda: f"ABS({of(DECIMAL, depth)})", lambda: f"({of(DECIMAL, 0)} / 3)", lambda: of(INT, depth), lambda: f"FLOOR({of(DECIMAL, depth)})",
            lambda: f"({of(DECIMAL, 0)} + {of(INT, 0)})", lambda: f"MOD({of(DECIMAL, 0)}, 7)"])()
        return f"CAST({made} AS DECIMAL(12, 2))"

    def string(self, depth):
        rng, of = self.rng, self.of
        return rng.choice([
            lambda: f"UPPER({of(STRING, depth)})", lambda: f"({of(STRING, depth)} || {of(STRING, depth)})", lambda: f"CONCAT({of(STRING, depth)}, '-', {of(STRING, depth)})",
            lambda: f"SUBSTRING({of(STRING, depth)}, {rng.randrange(1, 4)}, {rng.randrange(0, 4)})", lambda: f"SUBSTRING({of(STRING, depth)} FROM {rng.choice([1, 2, -2])})",
            lambda: f"REPLACE({of(STRING, depth)}, '/', '{rng.choice(['', '_', '//'])}')", lambda: f"TRIM(BOTH '/' FROM {of(STRING, depth)})", lambda: f"CAST({of(INT, depth)} AS STRING)",
            lambda: f"DATE_FORMAT({of(TIME, depth)}, '{rng.choice(['HH:mm', 'yyyy-MM-dd', 'mm:ss.SSS'])}')", lambda: f"REVERSE({of(STRING, depth)})", lambda: f"LPAD({of(STRING, depth)}, 6, '*')",
            lambda: f"LEFT({of(STRING, depth)}, 2)", lambda: f"RIGHT({of(STRING, depth)}, 2)", lambda: f"SPLIT_INDEX({of(STRING, depth)}, '/', {rng.randrange(3)})",
            lambda: f"REGEXP_REPLACE({of(STRING, depth)}, '[aeu]', '#')", lambda: f"REGEXP_EXTRACT({of(STRING, depth)}, '([a-z]+)', 1)", lambda: f"CAST({of(BOOLEAN, depth)} AS STRING)",
            lambda: f"CAST({of(DECIMAL, depth)} AS STRING)", lambda: f"CAST({of(DOUBLE, depth)} AS STRING)", lambda: f"CAST({of(TIME, depth)} AS STRING)", lambda: f"INITCAP({of(STRING, depth)})",
            lambda: f"MD5({of(STRING, depth)})", lambda: f"CONCAT_WS('|', {of(STRING, depth)}, {of(STRING, depth)})"])()

    def condition(self, depth):
        rng, of = self.rng, self.of
        kind = rng.choice([INT, DOUBLE, DECIMAL, STRING, STRING, TIME])
        compare = lambda: f"({of(kind, depth)} {rng.choice(['=', '<>', '<', '<=', '>', '>='])} {of(kind, max(depth - 1, 0))})"
        return rng.choice([
            compare, compare, compare, lambda: f"({of(kind, depth)} IS {rng.choice(['', 'NOT '])}NULL)", lambda: f"({self.condition(depth - 1)} AND {self.condition(depth - 1)})" if depth > 0 else compare(),
            lambda: f"({self.condition(depth - 1)} OR {self.condition(depth - 1)})" if depth > 0 else compare(), lambda: f"(NOT {self.condition(depth - 1)})" if depth > 0 else compare(),
            lambda: f"({of(STRING, depth)} {rng.choice(['', 'NOT '])}LIKE '{rng.choice(['%a%', '/_', 'u%', '%'])}')",
            lambda: f"({of(STRING, depth)} {rng.choice(['', 'NOT '])}IN ({', '.join(self.literal(STRING) for _ in range(rng.randrange(1, 5)))}))",
            lambda: f"({of(INT, depth)} {rng.choice(['', 'NOT '])}IN ({', '.join(self.literal(INT) for _ in range(rng.randrange(1, 4)))}))",
            lambda: f"({of(kind, depth)} BETWEEN {self.literal(kind)} AND {of(kind, 0)})", lambda: f"({of(BOOLEAN, 0)} IS {rng.choice(['', 'NOT '])}{rng.choice(['TRUE', 'FALSE'])})",
            lambda: f"({of(kind, depth)} IS {rng.choice(['', 'NOT '])}DISTINCT FROM {of(kind, 0)})", lambda: f"REGEXP({of(STRING, depth)}, '[a-c]$')"])()

    def where(self, depth=1):
        """A condition of WHERE: what is NULL counts, too."""
        return self.rng.choice(["{}", "{}", "{} IS NOT TRUE", "{} IS NOT FALSE"]).format(self.condition(depth))

    def moment(self, depth):
        rng, of = self.rng, self.of
        return rng.choice([
            lambda: f"FLOOR({of(TIME, depth)} TO {rng.choice(['MINUTE', 'HOUR', 'SECOND', 'DAY'])})", lambda: f"({of(TIME, depth)} + INTERVAL '{rng.randrange(1, 90)}' SECOND)",
            lambda: f"({of(TIME, depth)} - INTERVAL '2' MINUTE)", lambda: f"TIMESTAMPADD({rng.choice(['SECOND', 'DAY', 'MONTH'])}, {self.literal(INT)}, {of(TIME, 0)})",
            lambda: f"CEIL({of(TIME, depth)} TO MINUTE)"])()

    def aggregate(self):
        """An aggregate and its type."""
        rng, of = self.rng, self.of
        kind = rng.choice([INT, DOUBLE, DECIMAL, STRING, TIME])
        text, result = rng.choice([
            lambda: ("COUNT(*)", BIGINT), lambda: (f"COUNT({of(kind)})", BIGINT), lambda: (f"COUNT(DISTINCT {of(kind)})", BIGINT), lambda: (f"COUNT(DISTINCT {of(STRING)})", BIGINT),
            lambda: (f"SUM(CAST({of(INT)} AS BIGINT))", BIGINT), lambda: (f"SUM({of(DOUBLE)})", DOUBLE), lambda: (f"SUM({of(DECIMAL)})", "DECIMAL(38, 2)"), lambda: (f"MIN({of(kind)})", kind),
            lambda: (f"MAX({of(kind)})", kind), lambda: (f"MIN({of(STRING)})", STRING), lambda: (f"AVG({of(INT)})", INT), lambda: (f"AVG({of(DOUBLE)})", DOUBLE), lambda: (f"AVG({of(DECIMAL)})", "DECIMAL(38, 6)"),
            lambda: (f"SUM(DISTINCT CAST({of(INT)} AS BIGINT))", BIGINT), lambda: (f"STDDEV_POP({of(DOUBLE)})", DOUBLE)])()
        if rng.random() < 0.25:
            text += f" FILTER (WHERE {self.condition(1)})"
        return text, result


def interval(seconds):
    return f"INTERVAL '{seconds // 60}' MINUTE" if seconds % 60 == 0 else f"INTERVAL '{seconds}' SECOND"


class Forms:
    """Queries of a job."""

    def __init__(self, rng):
        self.rng, self.tables, self.number = rng, {}, 0

    def job(self, queries):
        views = [view for query in queries for view in query.views]
        parts = [*self.tables.values(), PRODUCTS, *views]
        return "\n\n".join([*parts, *(f"{query.sink.ddl()}\n\n{query.text};" for query in queries)]) + "\n"

    def table(self, among=ALL):
        table = self.rng.choice(among)
        self.tables[table.name] = table.ddl
        return Source(table.name, dict(table.columns), table.time, table.id, table.local)

    def view_name(self):
        self.number += 1
        return f"v{self.number}"

    def source(self):
        """A table, a view that computes and filters, or one that puts together."""
        base, form = self.table(), self.rng.random()
        if form < 0.4:
            return base
        return self.view(base) if form < 0.8 else self.union()

    def select(self, source, kinds):
        """A branch of a view: its identity, its time, and something of each of these types."""
        make = Expressions(self.rng, source.columns)
        parts = [f"{source.id} AS id", f"{source.time} AS ts", *(f"{make.of(kind, self.rng.randrange(3))} AS c{i}" for i, kind in enumerate(kinds))]
        where = f" WHERE {make.where(1)}" if self.rng.random() < 0.6 else ""
        return f"SELECT {', '.join(parts)} FROM {source.name}{where}"

    def as_view(self, text, kinds, source):
        name, columns = self.view_name(), {}
        for i, kind in enumerate(kinds):
            columns.setdefault(kind, []).append(f"c{i}")
        columns.setdefault(TIME, []).append("ts" if source.local else "CAST(ts AS TIMESTAMP(3))")
        return Source(name, columns, "ts", "id", source.local, [*source.views, f"CREATE VIEW {name} AS {text};"])

    def kinds(self):
        return [STRING, INT, *(self.rng.choice(TYPES) for _ in range(self.rng.randrange(1, 4)))]

    def view(self, base):
        kinds = self.kinds()
        return self.as_view(self.select(base, kinds), kinds, base)

    def union(self):
        """Rows that are late for one branch alone are late by other rules here (hand_late_union): without those."""
        pair = self.rng.choice([[CLICKS, ORDERED], [CLICKS, CLICKS], [EVENTS, EVENTS], [ORDERS, ORDERS]])
        first, second = (self.table([table]) for table in pair)
        kinds = self.kinds()
        return self.as_view(f"{self.select(first, kinds)} UNION ALL {self.select(second, kinds)}", kinds, first)

    def query(self, number):
        form = self.rng.choice([self.rows, self.rows, self.joined, self.window, self.window, self.window, self.running, self.running, self.ranked_groups, self.ranked_rows, self.stacked,
                                self.running_over_windows, self.distinct, self.grouping_sets])
        columns, text, key, views = form()
        sink = Sink(f"q{number}", columns, key)
        return Query(sink, f"INSERT INTO {sink.name}\n{text}", views)

    # Each form gives columns of the sink, the SELECT, the key, and views.

    def computed(self, source, least=1):
        make = Expressions(self.rng, source.columns)
        return [make.any(3) for _ in range(self.rng.randrange(least, 5))]

    def rows(self):
        source = self.source()
        parts = self.computed(source)
        where = f"\nWHERE {Expressions(self.rng, source.columns).where(2)}" if self.rng.random() < 0.7 else ""
        return [(f"c{i}", kind) for i, (_, kind) in enumerate(parts)], f"SELECT {', '.join(text for text, _ in parts)} FROM {source.name}{where}", None, source.views

    def joined(self):
        """With the reference table, by its key: an update stream in Flink, so a sink with a key."""
        orders = self.table([ORDERS])
        columns = {kind: [name.replace("amount", "o.amount").replace("`time`", "o.`time`") if "(" in name else f"o.{name}" for name in names] for kind, names in orders.columns.items()}
        columns[STRING] += ["p.name", "p.category", "p.name"]
        columns[DECIMAL] = [*columns[DECIMAL], "CAST(p.margin * 100 AS DECIMAL(12, 2))"]
        make = Expressions(self.rng, columns)
        parts = [make.any(2) for _ in range(self.rng.randrange(1, 4))]
        join = self.rng.choice(["JOIN", "LEFT JOIN"])
        where = f"\nWHERE {make.where(2)}" if self.rng.random() < 0.5 else ""
        select = ", ".join(["o.order_id", *(text for text, _ in parts)])
        return ([("order_id", STRING), *((f"c{i}", kind) for i, (_, kind) in enumerate(parts))], f"SELECT {select} FROM orders AS o {join} products AS p ON p.product = o.product{where}",
                ["order_id"], [])

    def tvf(self, name, time):
        rng = self.rng
        form = rng.choice(["TUMBLE", "TUMBLE", "HOP", "CUMULATE"])
        slide, size = rng.choice([(10, 10), (10, 20), (10, 50), (10, 60), (15, 60), (30, 30), (30, 60), (30, 90), (30, 180), (60, 60), (60, 120), (60, 300)])
        sizes = interval(size) if form == "TUMBLE" else f"{interval(slide)}, {interval(size)}"
        if rng.random() < 0.15:
            sizes += f", {interval(rng.choice([1, 7]))}"
        return f"TABLE({form}(TABLE {name}, DESCRIPTOR({time}), {sizes}))"

    def grouped(self, source, keys):
        """Columns and SELECT list of an aggregation."""
        make = Expressions(self.rng, source.columns)
        groups = [(make.of(kind, 1), kind) for kind in (self.rng.choice([STRING, INT, STRING, BOOLEAN]) for _ in range(keys))]
        parts = [make.aggregate() for _ in range(self.rng.randrange(1, 4))]
        return make, groups, parts

    def having(self, parts):
        texts = [f"{text} > {self.rng.choice([0, 1, 3])}" for text, kind in parts if kind in (INT, BIGINT, DOUBLE, "DECIMAL(38, 2)")]
        return f"\nHAVING {self.rng.choice(texts)}" if texts and self.rng.random() < 0.3 else ""

    def window(self):
        source = self.source()
        make, groups, parts = self.grouped(source, self.rng.randrange(3))
        # A group that is a constant is no group.
        groups = [group for group in groups if any(column in group[0] for names in source.columns.values() for column in names)]
        where = f"\nWHERE {make.where(2)}" if self.rng.random() < 0.5 else ""
        bounds = [("window_start", TIME), ("window_end", TIME)][: self.rng.randrange(1, 3)]
        selected = [*bounds, *groups, *parts]
        text = f"SELECT {', '.join(text for text, _ in selected)}\nFROM {self.tvf(source.name, source.time)}{where}\nGROUP BY {', '.join(['window_start', 'window_end', *(text for text, _ in groups)])}"
        return [(f"c{i}", kind) for i, (_, kind) in enumerate(selected)], text + self.having(parts), None, source.views

    def grouping_sets(self):
        source = self.view(self.table())
        make = Expressions(self.rng, source.columns)
        parts = [make.aggregate() for _ in range(2)]
        form = self.rng.choice(["GROUPING SETS ((c0), (c1), ())", "GROUPING SETS ((c0, c1), (c1))", "ROLLUP (c0, c1)", "CUBE (c0, c1)"])
        selected = [("window_start", TIME), ("c0", STRING), ("c1", INT), *parts]
        text = f"SELECT {', '.join(text for text, _ in selected)}\nFROM {self.tvf(source.name, source.time)}\nGROUP BY window_start, window_end, {form}"
        return [(f"k{i}", kind) for i, (_, kind) in enumerate(selected)], text, None, source.views

    def running(self):
        source = self.source()
        make, _, parts = self.grouped(source, 0)
        keys = [(f"COALESCE({make.of(kind, 1)}, {absent})", kind) for kind, absent in [self.rng.choice([(STRING, "'none'"), (INT, "-1")]) for _ in range(self.rng.randrange(1, 3))]]
        where = f"\nWHERE {make.where(2)}" if self.rng.random() < 0.5 else ""
        selected = [*keys, *parts]
        text = f"SELECT {', '.join(text for text, _ in selected)}\nFROM {source.name}{where}\nGROUP BY {', '.join(text for text, _ in keys)}" + self.having(parts)
        return [(f"c{i}", kind) for i, (_, kind) in enumerate(selected)], text, [f"c{i}" for i in range(len(keys))], source.views

    def distinct(self):
        source = self.source()
        make = Expressions(self.rng, source.columns)
        parts = [(f"COALESCE({make.of(STRING, 1)}, 'none')", STRING), (f"COALESCE({make.of(INT, 1)}, -1)", INT)][: self.rng.randrange(1, 3)]
        where = f" WHERE {make.where(1)}" if self.rng.random() < 0.5 else ""
        return [(f"c{i}", kind) for i, (_, kind) in enumerate(parts)], f"SELECT DISTINCT {', '.join(text for text, _ in parts)} FROM {source.name}{where}", [f"c{i}" for i in range(len(parts))], source.views

    def ranked_groups(self):
        source = self.view(self.table())
        make = Expressions(self.rng, source.columns)
        value, kind = make.aggregate()
        direction, by = self.rng.choice(["DESC", "ASC", "DESC NULLS LAST", "ASC NULLS LAST"]), self.rng.choice(["", ", c1"])
        groups = "c0, c1"
        inner = f"SELECT window_start, window_end, {groups}, {value} AS v FROM {self.tvf(source.name, source.time)} GROUP BY window_start, window_end, {groups}"
        ties = "c0, c1" if not by else "c0"
        ranked = f"SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end{by} ORDER BY v {direction}, {ties}) AS place FROM ({inner})"
        return ([("w", TIME), ("c0", STRING), ("c1", INT), ("v", kind), ("place", BIGINT)], f"SELECT window_start, c0, c1, v, place FROM ({ranked})\nWHERE place <= {self.rng.choice([1, 2, 3])}", None, source.views)

    def ranked_rows(self):
        source = self.view(self.table())
        direction, by = self.rng.choice(["DESC", "ASC"]), self.rng.choice(["", ", c0"])
        column = self.rng.choice(["c1", "ts", "c0"])
        ranked = f"SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end{by} ORDER BY {column} {direction}, id) AS place FROM {self.tvf(source.name, source.time)}"
        return [("w", TIME), ("c0", STRING), ("c1", INT), ("place", BIGINT)], f"SELECT window_start, c0, c1, place FROM ({ranked})\nWHERE place <= {self.rng.choice([1, 2])}", None, source.views

    def inner_windows(self):
        source = self.view(self.table())
        make = Expressions(self.rng, source.columns)
        value, kind = make.aggregate()
        slide = self.rng.choice([10, 30])
        text = (f"SELECT window_start AS ws, window_end AS we, window_time AS wt, c0, COUNT(*) AS n, {value} AS v FROM TABLE(TUMBLE(TABLE {source.name}, DESCRIPTOR(ts), INTERVAL '{slide}' SECOND)) "
                f"GROUP BY window_start, window_end, window_time, c0")
        name = self.view_name()
        return name, kind, [*source.views, f"CREATE VIEW {name} AS {text};"]

    def stacked(self):
        name, kind, views = self.inner_windows()
        size = self.rng.choice([60, 90, 120])
        text = (f"SELECT window_start, c0, SUM(n), COUNT(*), MAX(v)\nFROM TABLE(TUMBLE(TABLE {name}, DESCRIPTOR(wt), {interval(size)}))\nGROUP BY window_start, window_end, c0")
        return [("w", TIME), ("c0", STRING), ("total", BIGINT), ("n", BIGINT), ("most", kind)], text, None, views

    def running_over_windows(self):
        name, kind, views = self.inner_windows()
        text = f"SELECT COALESCE(c0, 'none'), SUM(n), COUNT(v), MIN(v)\nFROM {name}\nGROUP BY COALESCE(c0, 'none')" + self.rng.choice(["", "\nHAVING SUM(n) > 5"])
        return [("c0", STRING), ("total", BIGINT), ("n", BIGINT), ("least", kind)], text, ["c0"], views
