// A reader of one stream by the Kinesis Client Library 3, as its documentation shows it: it counts records, with their JSON
// parsed by Jackson or not, and says each second how many there were. Records of the type "marker" are printed at once.
//
//   java -cp JARS:. Reader KINESIS DYNAMODB parse|raw

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.TreeMap;
import java.util.UUID;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.awssdk.http.Protocol;
import software.amazon.awssdk.http.nio.netty.NettyNioAsyncHttpClient;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.cloudwatch.CloudWatchAsyncClient;
import software.amazon.awssdk.services.dynamodb.DynamoDbAsyncClient;
import software.amazon.awssdk.services.kinesis.KinesisAsyncClient;
import software.amazon.kinesis.common.ConfigsBuilder;
import software.amazon.kinesis.common.InitialPositionInStream;
import software.amazon.kinesis.common.InitialPositionInStreamExtended;
import software.amazon.kinesis.coordinator.Scheduler;
import software.amazon.kinesis.lifecycle.events.*;
import software.amazon.kinesis.metrics.MetricsLevel;
import software.amazon.kinesis.processor.ShardRecordProcessor;
import software.amazon.kinesis.processor.SingleStreamTracker;
import software.amazon.kinesis.retrieval.KinesisClientRecord;
import software.amazon.kinesis.retrieval.polling.PollingConfig;

public class Reader {
  static final ObjectMapper JSON = new ObjectMapper();
  static final TreeMap<String, Long> COUNTS = new TreeMap<>();
  static boolean parse;

  static class Processor implements ShardRecordProcessor {
    long checkpointed = System.nanoTime();

    public void initialize(InitializationInput input) {}

    public void processRecords(ProcessRecordsInput input) {
      for (KinesisClientRecord record : input.records()) {
        ByteBuffer data = record.data();
        byte[] bytes = new byte[data.remaining()];
        data.get(bytes);
        String type = "all";
        try {
          if (parse) {
            JsonNode event = JSON.readTree(bytes);
            type = event.get("event_type").asText();
            if (type.equals("marker")) say("marker " + event.get("event_id").asText());
          } else if (bytes.length < 100) {
            say("marker " + JSON.readTree(bytes).get("event_id").asText());
          }
        } catch (Exception e) {
          throw new RuntimeException(new String(bytes, StandardCharsets.UTF_8), e);
        }
        synchronized (COUNTS) {
          COUNTS.merge(type, 1L, Long::sum);
        }
      }
      // As often as people do it: each ten seconds.
      if (System.nanoTime() - checkpointed > 10_000_000_000L) {
        try {
          input.checkpointer().checkpoint();
          checkpointed = System.nanoTime();
        } catch (Exception e) {
          say("not checkpointed: " + e);
        }
      }
    }

    public void leaseLost(LeaseLostInput input) {}

    public void shardEnded(ShardEndedInput input) {
      try {
        input.checkpointer().checkpoint();
      } catch (Exception e) {
        say("not checkpointed: " + e);
      }
    }

    public void shutdownRequested(ShutdownRequestedInput input) {}
  }

  static synchronized void say(String line) {
    System.out.println(line);
    System.out.flush();
  }

  public static void main(String[] args) throws Exception {
    parse = args[2].equals("parse");
    var credentials = StaticCredentialsProvider.create(AwsBasicCredentials.create("test", "test"));
    var http = NettyNioAsyncHttpClient.builder().maxConcurrency(200).protocol(Protocol.HTTP1_1);
    var kinesis = KinesisAsyncClient.builder().endpointOverride(URI.create(args[0])).region(Region.EU_WEST_1)
        .credentialsProvider(credentials).httpClientBuilder(http).build();
    var dynamodb = DynamoDbAsyncClient.builder().endpointOverride(URI.create(args[1])).region(Region.EU_WEST_1)
        .credentialsProvider(credentials).build();
    var cloudwatch = CloudWatchAsyncClient.builder().endpointOverride(URI.create(args[1])).region(Region.EU_WEST_1)
        .credentialsProvider(credentials).build();
    var start = InitialPositionInStreamExtended.newInitialPosition(InitialPositionInStream.TRIM_HORIZON);
    var configs = new ConfigsBuilder(new SingleStreamTracker("events", start), "reader-" + UUID.randomUUID(), kinesis,
        dynamodb, cloudwatch, "worker", Processor::new);
    var scheduler = new Scheduler(configs.checkpointConfig(), configs.coordinatorConfig(), configs.leaseManagementConfig(),
        configs.lifecycleConfig(), configs.metricsConfig().metricsLevel(MetricsLevel.NONE), configs.processorConfig(),
        configs.retrievalConfig().retrievalSpecificConfig(new PollingConfig("events", kinesis)));
    var thread = new Thread(scheduler);
    thread.setDaemon(true);
    thread.start();
    while (true) {
      Thread.sleep(200);
      long all = 0;
      synchronized (COUNTS) {
        for (long count : COUNTS.values()) all += count;
      }
      say("count " + all);
    }
  }
}
