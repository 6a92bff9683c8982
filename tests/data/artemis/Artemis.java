import java.util.HashMap;
import java.util.Map;
import org.apache.activemq.artemis.api.core.ActiveMQException;
import org.apache.activemq.artemis.api.core.Message;
import org.apache.activemq.artemis.api.core.RoutingType;
import org.apache.activemq.artemis.api.core.SimpleString;
import org.apache.activemq.artemis.api.core.TransportConfiguration;
import org.apache.activemq.artemis.core.config.Configuration;
import org.apache.activemq.artemis.core.config.impl.ConfigurationImpl;
import org.apache.activemq.artemis.core.server.JournalType;
import org.apache.activemq.artemis.core.server.ServerSession;
import org.apache.activemq.artemis.core.server.embedded.EmbeddedActiveMQ;
import org.apache.activemq.artemis.core.server.plugin.ActiveMQServerPlugin;
import org.apache.activemq.artemis.core.settings.impl.AddressFullMessagePolicy;
import org.apache.activemq.artemis.core.settings.impl.AddressSettings;
import org.apache.activemq.artemis.core.transaction.Transaction;

/** Artemis with AMQP 1.0 alone. Arguments: a folder, a port, and perhaps the port of TLS with its key store. */
public class Artemis {
    public static void main(String[] arguments) throws Exception {
        String folder = arguments[0];
        Configuration config = new ConfigurationImpl()
            .setName("test").setSecurityEnabled(false).setPersistenceEnabled(true).setJMXManagementEnabled(false)
            .setJournalType(JournalType.NIO).setJournalDatasync(true).setJournalFileSize(4 << 20).setJournalMinFiles(2)
            .setJournalDirectory(folder + "/journal").setBindingsDirectory(folder + "/bindings")
            .setPagingDirectory(folder + "/paging").setLargeMessagesDirectory(folder + "/large")
            .setMaxDiskUsage(-1).setIDCacheSize(20_000).setPersistIDCache(true);
        acceptor(config, "plain", Integer.parseInt(arguments[1]), Map.of());
        if (arguments.length > 2) {
            acceptor(config, "tls", Integer.parseInt(arguments[2]), Map.of(
                "sslEnabled", "true", "keyStoreType", "PEM", "keyStorePath", arguments[3], "trustStoreType", "PEM",
                "trustStorePath", arguments[4], "needClientAuth", "true"));
        }
        // As it is out of the box: what is sent to an address that is not there makes one without a queue.
        config.addAddressSetting("#", new AddressSettings()
            .setAutoCreateQueues(true).setAutoCreateAddresses(true).setAutoDeleteQueues(false).setAutoDeleteAddresses(false));
        // Of its own for each test: one that refuses when it is full.
        config.addAddressSetting("small", new AddressSettings()
            .setDefaultAddressRoutingType(RoutingType.ANYCAST).setDefaultQueueRoutingType(RoutingType.ANYCAST)
            .setAutoDeleteQueues(false).setAutoDeleteAddresses(false)
            .setMaxSizeBytes(20_000).setAddressFullMessagePolicy(AddressFullMessagePolicy.FAIL));
        config.registerBrokerPlugin(new Refuses());
        EmbeddedActiveMQ server = new EmbeddedActiveMQ();
        server.setConfiguration(config);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                server.stop();
            } catch (Exception error) {
                error.printStackTrace();
            }
        }));
        server.start();
        Thread.sleep(Long.MAX_VALUE);
    }

    private static void acceptor(Configuration config, String name, int port, Map<String, String> more) {
        Map<String, Object> parameters = new HashMap<>(more);
        parameters.put("host", "127.0.0.1");
        parameters.put("port", Integer.toString(port));
        parameters.put("protocols", "AMQP");
        String factory = "org.apache.activemq.artemis.core.remoting.impl.netty.NettyAcceptorFactory";
        config.addAcceptorConfiguration(new TransportConfiguration(factory, parameters, name,
            Map.of("amqpDuplicateDetection", "true")));
    }

    /** Refuses what has the property `poison`. */
    private static class Refuses implements ActiveMQServerPlugin {
        @Override
        public void beforeSend(ServerSession session, Transaction transaction, Message message, boolean direct, boolean noAutoCreate)
            throws ActiveMQException {
            if (message.getAnnotation(SimpleString.of("poison")) != null || message.containsProperty("poison")) {
                throw new ActiveMQException("it is poison");
            }
        }
    }
}
