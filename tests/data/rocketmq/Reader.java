import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.Collection;
import java.util.HashMap;
import java.util.Map;
import java.util.TreeMap;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.exception.RemotingException;

/**
 * Prints what topics hold, from the beginning and as it comes: topic, queue, body and then names and values of properties, each
 * but the first two in Base64, with spaces between them. Arguments: the name server's address and the topics.
 */
public class Reader {
    public static void main(String[] arguments) {
        try {
            read(arguments);
        } catch (Throwable error) {
            // The client's own threads would keep the program alive, and nobody would hear of it.
            error.printStackTrace();
            System.exit(1);
        }
    }

    private static void read(String[] arguments) throws Exception {
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer("reader");
        consumer.setNamesrvAddr(arguments[0]);
        consumer.setVipChannelEnabled(false);
        consumer.start();
        Map<MessageQueue, Long> offsets = new HashMap<>();
        for (int i = 1; i < arguments.length; i++) {
            for (MessageQueue queue : queues(consumer, arguments[i])) {
                offsets.put(queue, 0L);
            }
        }
        while (true) {
            boolean came = false;
            for (Map.Entry<MessageQueue, Long> place : offsets.entrySet()) {
                try {
                    PullResult result = consumer.pull(place.getKey(), "*", place.getValue(), 32);
                    if (result.getPullStatus() == PullStatus.FOUND) {
                        came = true;
                        result.getMsgFoundList().forEach(Reader::print);
                    }
                    // Of a topic with delayed messages the first offsets may not be there.
                    place.setValue(Math.max(place.getValue(), result.getNextBeginOffset()));
                } catch (RemotingException | MQBrokerException | MQClientException error) {
                    // The server has only just started, or the connection was lost: once more.
                    System.err.println(error);
                    Thread.sleep(200);
                }
            }
            System.out.flush();
            if (!came) {
                Thread.sleep(50);
            }
        }
    }

    private static Collection<MessageQueue> queues(DefaultMQPullConsumer consumer, String topic) throws InterruptedException {
        while (true) {
            try {
                return consumer.fetchSubscribeMessageQueues(topic);
            } catch (MQClientException error) {
                // The name server is slow, or knows nothing of the topic yet: once more.
                System.err.println(error);
                Thread.sleep(200);
            }
        }
    }

    private static void print(MessageExt message) {
        StringBuilder line = new StringBuilder(message.getTopic() + " " + message.getQueueId());
        line.append(' ').append(Base64.getEncoder().encodeToString(message.getBody()));
        for (Map.Entry<String, String> property : new TreeMap<>(message.getProperties()).entrySet()) {
            line.append(' ').append(encode(property.getKey())).append(' ').append(encode(property.getValue()));
        }
        System.out.println(line);
    }

    private static String encode(String text) {
        return Base64.getEncoder().encodeToString(text.getBytes(StandardCharsets.UTF_8));
    }
}
