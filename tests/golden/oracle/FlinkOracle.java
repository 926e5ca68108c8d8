import java.math.BigDecimal;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Scanner;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.api.TableResult;
import org.apache.flink.types.Row;
import org.apache.flink.util.CloseableIterator;

/**
 * Runs Flink SQL files on a real, embedded Flink and writes what each sink receives, as a change log.
 *
 * Reads one request a line from standard input:
 *   SQL_FILE TAB IN_FOLDER TAB OUT_FOLDER   runs the file's statements in order; ${IN} and ${OUT} are the folders.
 *                                           A table whose path is in ${OUT} becomes an OracleSink: OUT/sink.jsonl.
 *   EXPRESSION TAB TEXT                     type and value of one SQL expression.
 * Answers "OK", "VALUE type TAB json" or "ERROR message". One parallel task; watermarks advance with every row.
 */
public final class FlinkOracle {
    private static final Pattern SET = Pattern.compile("(?is)^\\s*SET\\s+'?([\\w.\\-]+)'?\\s*=\\s*'?([^']*?)'?\\s*$");
    private static final Pattern PARAMETER = Pattern.compile("\\$\\{(\\w+)(?::-([^}]*))?}");

    public static void main(String[] arguments) {
        Scanner requests = new Scanner(System.in);
        while (requests.hasNextLine()) {
            String[] request = requests.nextLine().split("\t");
            try {
                if (request[0].equals("EXPRESSION")) {
                    System.out.println("VALUE " + expression(request[1]));
                } else {
                    run(Path.of(request[0]), request[1], request[2]);
                    System.out.println("OK");
                }
            } catch (Throwable problem) {
                StringBuilder text = new StringBuilder();
                for (Throwable t = problem; t != null; t = t.getCause()) {
                    text.append(t.getMessage()).append(" <- ");
                }
                System.out.println("ERROR " + text.toString().replaceAll("\\s+", " "));
            }
            System.out.flush();
        }
    }

    private static void run(Path file, String input, String output) throws Exception {
        TableEnvironment tables = TableEnvironment.create(EnvironmentSettings.inStreamingMode());
        tables.getConfig().set("parallelism.default", "1");
        tables.getConfig().set("table.local-time-zone", "UTC");
        tables.getConfig().set("pipeline.auto-watermark-interval", "0 ms");
        for (String statement : statements(Files.readString(file))) {
            if (statement.matches("(?is)CREATE\\s.*") && statement.contains("${OUT}")) {
                statement = statement.replaceAll("'connector'\\s*=\\s*'filesystem'", "'connector'='oracle'");
            }
            statement = PARAMETER.matcher(statement).replaceAll(found -> Matcher.quoteReplacement(
                    found.group(1).equals("IN") ? input : found.group(1).equals("OUT") ? output : found.group(2)));
            Matcher set = SET.matcher(statement);
            if (set.matches()) {
                tables.getConfig().set(set.group(1), set.group(2));
            } else {
                TableResult result = tables.executeSql(statement);
                if (statement.matches("(?is)INSERT\\s.*")) {
                    result.await();
                }
            }
        }
    }

    /** Splits at semicolons outside quotes and comments; statement sets are taken apart into their INSERTs. */
    private static List<String> statements(String sql) {
        List<String> found = new ArrayList<>();
        StringBuilder current = new StringBuilder();
        for (int i = 0; i < sql.length(); i++) {
            char c = sql.charAt(i);
            if (c == '-' && sql.startsWith("--", i)) {
                int end = sql.indexOf('\n', i);
                i = end < 0 ? sql.length() : end;
                current.append('\n');
            } else if (c == '/' && sql.startsWith("/*", i) && !sql.startsWith("/*+", i)) {
                i = sql.indexOf("*/", i) + 1;
                current.append(' ');
            } else if (c == '\'' || c == '`') {
                int end = sql.indexOf(c, i + 1);
                current.append(sql, i, end + 1);
                i = end;
            } else if (c == ';') {
                found.add(current.toString());
                current.setLength(0);
            } else {
                current.append(c);
            }
        }
        found.add(current.toString());
        List<String> cleaned = new ArrayList<>();
        for (String s : found) {
            String t = s.replaceFirst("(?is)^\\s*(EXECUTE\\s+STATEMENT\\s+SET\\s+BEGIN|BEGIN\\s+STATEMENT\\s+SET)", "").trim();
            if (!t.isEmpty() && !t.equalsIgnoreCase("END")) {
                cleaned.add(t);
            }
        }
        return cleaned;
    }

    private static TableEnvironment expressions;

    /** Type and value of one expression, as "TYPE TAB JSON". */
    private static String expression(String text) throws Exception {
        if (expressions == null) {
            expressions = TableEnvironment.create(EnvironmentSettings.inBatchMode());
            expressions.getConfig().set("parallelism.default", "1");
            expressions.getConfig().set("table.local-time-zone", "UTC");
        }
        TableResult result = expressions.executeSql("SELECT " + text + " AS v");
        String type = result.getResolvedSchema().getColumnDataTypes().get(0).toString();
        try (CloseableIterator<Row> rows = result.collect()) {
            Object value = rows.next().getField(0);
            return type + "\t" + (value instanceof BigDecimal ? ((BigDecimal) value).toPlainString() : String.valueOf(value));
        }
    }
}
