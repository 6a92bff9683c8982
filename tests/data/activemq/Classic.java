import java.io.File;
import org.apache.activemq.broker.BrokerService;
import org.apache.activemq.store.kahadb.KahaDBPersistenceAdapter;

/** ActiveMQ Classic with AMQP 1.0 alone. Arguments: a folder and a port. */
public class Classic {
    public static void main(String[] arguments) throws Exception {
        KahaDBPersistenceAdapter store = new KahaDBPersistenceAdapter();
        store.setDirectory(new File(arguments[0], "store"));
        store.setJournalMaxFileLength(16 << 20);
        BrokerService broker = new BrokerService();
        broker.setBrokerName("test");
        broker.setUseJmx(false);
        broker.setAdvisorySupport(false);
        broker.setPersistenceAdapter(store);
        broker.getSystemUsage().getStoreUsage().setLimit(1L << 30);
        broker.getSystemUsage().getTempUsage().setLimit(256L << 20);
        broker.getSystemUsage().getMemoryUsage().setLimit(64L << 20);
        broker.addConnector("amqp+nio://127.0.0.1:" + arguments[1] + "?transport.transformer=native");
        broker.start();
        broker.waitUntilStopped();
    }
}
