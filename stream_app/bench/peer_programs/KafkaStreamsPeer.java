import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.util.Locale;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;

/**
 * Peer: a Kafka Streams application of one thread that parses JSON samples by Jackson and does nothing with them.
 *
 * <p>{@code KafkaStreamsPeer BOOTSTRAP TOPIC COUNT} prints one JSON line {@code {"records": n, "seconds": s}}, timed
 * from the first record to the last.
 */
public final class KafkaStreamsPeer {
    /** One sample, as the source contract has it. */
    public static final class Sample {
        public String sensor;
        public long t;
        public double value;
    }

    private static final ObjectReader READER = new ObjectMapper().readerFor(Sample.class);

    private final CountDownLatch done = new CountDownLatch(1);
    private final long wanted;
    private long seen;
    private long startedNs;
    private long endedNs;

    private KafkaStreamsPeer(long wanted) {
        this.wanted = wanted;
    }

    private void take(byte[] value) {
        if (seen == 0) {
            startedNs = System.nanoTime();
        }
        try {
            READER.readValue(value);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        if (++seen == wanted) {
            endedNs = System.nanoTime();
            done.countDown();
        }
    }

    private static Properties settings(String bootstrap) throws IOException {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "streams-" + UUID.randomUUID());
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, Files.createTempDirectory("streams-peer").toString());
        settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        return settings;
    }

    public static void main(String[] arguments) throws Exception {
        KafkaStreamsPeer peer = new KafkaStreamsPeer(Long.parseLong(arguments[2]));
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(arguments[1], Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .foreach((key, value) -> peer.take(value));
        try (KafkaStreams streams = new KafkaStreams(builder.build(), settings(arguments[0]))) {
            streams.start();
            peer.done.await();
        }
        double seconds = (peer.endedNs - peer.startedNs) / 1e9;
        System.out.println(String.format(Locale.ROOT, "{\"records\": %d, \"seconds\": %.6f}", peer.seen, seconds));
    }
}
