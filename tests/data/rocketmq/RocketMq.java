import java.lang.reflect.Field;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.broker.BrokerController;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.utils.AbstractStartAndShutdown;
import org.apache.rocketmq.namesrv.NamesrvController;
import org.apache.rocketmq.namesrv.NamesrvStartup;
import org.apache.rocketmq.proxy.ProxyStartup;

/**
 * RocketMQ's name server, broker and proxy in one. Arguments: a folder with ns.conf, broker.conf and proxy.json, the name server's
 * address, topics as NAME:TYPE with commas between them, and a file that is made when all of it can be used.
 */
public class RocketMq {
    public static void main(String[] arguments) throws Exception {
        String folder = arguments[0];
        NamesrvController names = NamesrvStartup.main0(new String[] {"-c", folder + "/ns.conf"});
        ProxyStartup.main(new String[] {
            "-pm", "LOCAL", "-n", arguments[1], "-bc", folder + "/broker.conf", "-pc", folder + "/proxy.json"});
        BrokerController broker = broker();
        String last = null;
        for (String topic : arguments[2].split(",")) {
            String[] nameAndType = topic.split(":");
            last = nameAndType[0];
            if (broker.getTopicConfigManager().selectTopicConfig(last) == null) {
                TopicConfig config = new TopicConfig(last, 4, 4, 6);
                config.setAttributes(new HashMap<>(Map.of("+message.type", nameAndType[1])));
                broker.getTopicConfigManager().updateTopicConfig(config);
            }
        }
        // The proxy keeps it that a topic is missing: nothing may be sent before the name server knows all of them.
        while (names.getRouteInfoManager().pickupTopicRouteData(last) == null) {
            broker.registerBrokerAll(true, false, true);
            Thread.sleep(100);
        }
        new java.io.File(arguments[3]).createNewFile();
    }

    /** The broker that the proxy has started; it tells nobody. */
    private static BrokerController broker() throws Exception {
        Field started = ProxyStartup.class.getDeclaredField("PROXY_START_AND_SHUTDOWN");
        started.setAccessible(true);
        Field list = AbstractStartAndShutdown.class.getDeclaredField("startAndShutdownList");
        list.setAccessible(true);
        for (Object part : (List<?>) list.get(started.get(null))) {
            for (Field field : part.getClass().getDeclaredFields()) {
                if (field.getType() == BrokerController.class) {
                    field.setAccessible(true);
                    return (BrokerController) field.get(part);
                }
            }
        }
        throw new IllegalStateException("the proxy has no broker");
    }
}
