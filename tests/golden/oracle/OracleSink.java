import java.io.IOException;
import java.io.Writer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Map;
import java.util.Set;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.formats.common.TimestampFormat;
import org.apache.flink.formats.json.JsonFormatOptions;
import org.apache.flink.formats.json.JsonRowDataSerializationSchema;
import org.apache.flink.table.connector.ChangelogMode;
import org.apache.flink.table.connector.sink.DynamicTableSink;
import org.apache.flink.table.connector.sink.SinkV2Provider;
import org.apache.flink.table.connector.sink.abilities.SupportsPartitioning;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.factories.DynamicTableSinkFactory;
import org.apache.flink.table.types.logical.RowType;

/**
 * The connector that stands in for a JSON `filesystem` sink: it writes PATH.jsonl, a line for each change, exactly as
 * Flink's own JSON format writes the row, with "__op" (+I, -U, +U, -D) as the last member.
 *
 * With a PRIMARY KEY it takes every kind of change; without one it takes inserted rows only, so that Flink's planner
 * refuses an update stream. Partition columns are written like the others.
 */
public final class OracleSink implements DynamicTableSinkFactory {
    @Override
    public String factoryIdentifier() {
        return "oracle";
    }

    @Override
    public Set<ConfigOption<?>> requiredOptions() {
        return Set.of();
    }

    @Override
    public Set<ConfigOption<?>> optionalOptions() {
        return Set.of();
    }

    @Override
    public DynamicTableSink createDynamicTableSink(Context context) {
        var schema = context.getCatalogTable().getResolvedSchema();
        RowType type = (RowType) schema.toSinkRowDataType().getLogicalType();
        Map<String, String> options = context.getCatalogTable().getOptions();
        boolean iso = "ISO-8601".equals(options.get("json.timestamp-format.standard"));
        return new Table(type, schema.getPrimaryKey().isPresent(), options.get("path"), iso);
    }

    private static final class Table implements DynamicTableSink, SupportsPartitioning {
        private final RowType type;
        private final boolean keyed;
        private final String path;
        private final boolean iso;

        Table(RowType type, boolean keyed, String path, boolean iso) {
            this.type = type;
            this.keyed = keyed;
            this.path = path;
            this.iso = iso;
        }

        @Override
        public ChangelogMode getChangelogMode(ChangelogMode requested) {
            return keyed ? ChangelogMode.all() : ChangelogMode.insertOnly();
        }

        @Override
        public SinkRuntimeProvider getSinkRuntimeProvider(Context context) {
            return SinkV2Provider.of(new Lines(type, path, iso), 1);
        }

        @Override
        public DynamicTableSink copy() {
            return new Table(type, keyed, path, iso);
        }

        @Override
        public String asSummaryString() {
            return "oracle";
        }

        @Override
        public void applyStaticPartition(Map<String, String> partition) {}
    }

    private record Lines(RowType type, String path, boolean iso) implements Sink<RowData> {
        @Override
        public SinkWriter<RowData> createWriter(WriterInitContext context) throws IOException {
            var schema = new JsonRowDataSerializationSchema(
                    type, iso ? TimestampFormat.ISO_8601 : TimestampFormat.SQL, JsonFormatOptions.MapNullKeyMode.LITERAL, "null", true, false);
            try {
                schema.open(null);
            } catch (Exception problem) {
                throw new IOException(problem);
            }
            Path target = Path.of(path + ".jsonl");
            Files.createDirectories(target.getParent());
            Writer out = Files.newBufferedWriter(target, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
            return new SinkWriter<>() {
                @Override
                public void write(RowData row, Context context) throws IOException {
                    String operation = row.getRowKind().shortString();
                    String line = new String(schema.serialize(row), StandardCharsets.UTF_8);
                    String comma = line.length() > 2 ? "," : "";
                    out.write(line.substring(0, line.length() - 1) + comma + "\"__op\":\"" + operation + "\"}\n");
                }

                @Override
                public void flush(boolean end) throws IOException {
                    out.flush();
                }

                @Override
                public void close() throws IOException {
                    out.close();
                }
            };
        }
    }
}
