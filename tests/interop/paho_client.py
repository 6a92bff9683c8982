"""One scenario with paho-mqtt against a broker: paho_client.py SCENARIO VERSION PORT CA PREFIX.

VERSION is 311 or 5. PORT is a TLS port when CA is not "-". Ends with 0 when all went as it should.
"""

import queue
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

SCENARIO, VERSION, PORT, CA, PREFIX = sys.argv[1:]
V5 = VERSION == "5"
LIMIT = 15


def check(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: got {got!r}, wanted {wanted!r}")


class Client:
    """A paho client whose messages wait in a queue."""

    def __init__(self, name, persistent=False, will=None):
        self.messages = queue.Queue()
        self.connected = queue.Queue()
        self.granted = queue.Queue()
        self.persistent = persistent
        kind = {"protocol": mqtt.MQTTv5} if V5 else {"protocol": mqtt.MQTTv311, "clean_session": not persistent}
        self.paho = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"{PREFIX}-{name}", **kind)
        if CA != "-":
            self.paho.tls_set(ca_certs=CA)
        if will:
            self.paho.will_set(*will)
        self.paho.on_message = lambda c, u, m: self.messages.put(m)
        self.paho.on_connect = lambda c, u, flags, code, p: self.connected.put((flags, code))
        self.paho.on_subscribe = lambda c, u, mid, codes, p: self.granted.put([c.value for c in codes])

    def connect(self, present=False):
        options = {}
        if V5:
            properties = Properties(PacketTypes.CONNECT)
            if self.persistent:
                properties.SessionExpiryInterval = 600
            options = {"clean_start": not self.persistent, "properties": properties}
        self.paho.connect("localhost" if CA != "-" else "127.0.0.1", int(PORT), keepalive=30, **options)
        self.paho.loop_start()
        flags, code = self.connected.get(timeout=LIMIT)
        check("CONNACK", code.value, 0)
        check("session present", bool(flags.session_present), present)
        return self

    def subscribe(self, topic, qos):
        options = {"options": SubscribeOptions(qos=qos)} if V5 else {"qos": qos}
        self.paho.subscribe(topic, **options)
        check("SUBACK", self.granted.get(timeout=LIMIT), [qos])
        return self

    def publish(self, topic, payload, qos, retain=False, **options):
        info = self.paho.publish(topic, payload, qos, retain, **options)
        info.wait_for_publish(LIMIT)
        check("published", info.is_published(), True)

    def next(self):
        return self.messages.get(timeout=LIMIT)

    def nothing_more(self):
        time.sleep(0.3)
        check("messages left over", [m.payload for m in self.messages.queue], [])

    def disconnect(self):
        self.paho.disconnect()
        self.paho.loop_stop()

    def vanish(self):
        """Closes the socket without DISCONNECT."""
        self.paho.loop_stop()
        self.paho.socket().close()


def exchange(qos):
    topic = f"{PREFIX}/exchange/{qos}"
    subscriber = Client("s").connect().subscribe(topic, qos)
    publisher = Client("p").connect()
    for n in range(50):
        publisher.publish(topic, f"message {n}", qos)
    for n in range(50):
        message = subscriber.next()
        check("payload", message.payload, f"message {n}".encode())
        check("qos", message.qos, qos)
        check("topic", message.topic, topic)
        check("retain", message.retain, False)
    subscriber.nothing_more()
    if V5:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ContentType = "text/plain"
        properties.ResponseTopic = "answer/here"
        properties.CorrelationData = b"\x01\x02"
        properties.UserProperty = ("key", "value")
        publisher.publish(topic, "", qos, properties=properties)
        got = subscriber.next().properties
        check("content type", got.ContentType, "text/plain")
        check("response topic", got.ResponseTopic, "answer/here")
        check("correlation data", got.CorrelationData, b"\x01\x02")
        check("user property", got.UserProperty, [("key", "value")])
    publisher.disconnect()
    subscriber.disconnect()


def will():
    topic = f"{PREFIX}/will"
    subscriber = Client("s").connect().subscribe(topic, 1)
    Client("d1", will=(topic, "gone", 1)).connect().vanish()
    check("will", subscriber.next().payload, b"gone")
    Client("d2", will=(topic, "never", 1)).connect().disconnect()
    subscriber.nothing_more()
    subscriber.disconnect()


def retained():
    topic = f"{PREFIX}/retained"
    publisher = Client("p").connect()
    publisher.publish(topic, "first", 1, retain=True)
    publisher.publish(topic, "second", 1, retain=True)
    late = Client("s1").connect().subscribe(f"{PREFIX}/+", 1)
    message = late.next()
    check("retained", (message.payload, message.retain), (b"second", True))
    publisher.publish(topic, "", 1, retain=True)
    check("cleared", (late.next().payload), b"")
    later = Client("s2").connect().subscribe(f"{PREFIX}/#", 1)
    later.nothing_more()
    for client in (publisher, late, later):
        client.disconnect()


def resume():
    topic = f"{PREFIX}/resume"
    first = Client("s", persistent=True).connect().subscribe(topic, 2)
    first.disconnect()
    publisher = Client("p").connect()
    for n in range(20):
        publisher.publish(topic, str(n), 1 + n % 2)
    again = Client("s", persistent=True).connect(present=True)
    # A client hands on QoS 2 at PUBREL: order is kept within a QoS, not across them.
    came = [again.next() for _ in range(20)]
    for qos in (1, 2):
        payloads = [message.payload for message in came if message.qos == qos]
        check(f"queued at QoS {qos}", payloads, [str(n).encode() for n in range(qos - 1, 20, 2)])
    again.nothing_more()
    publisher.disconnect()
    again.disconnect()
    Client("s").connect().disconnect()


def shared():
    topic = f"{PREFIX}/shared"
    members = [Client(f"s{n}").connect().subscribe(f"$share/group/{topic}", 1) for n in range(3)]
    outside = Client("o").connect().subscribe(topic, 1)
    publisher = Client("p").connect()
    wanted = [str(n).encode() for n in range(60)]
    for payload in wanted:
        publisher.publish(topic, payload, 1)
    check("outside the group", [outside.next().payload for _ in wanted], wanted)
    time.sleep(0.5)
    parts = [[m.payload for m in member.messages.queue] for member in members]
    check("all together", sorted(sum(parts, [])), sorted(wanted))
    check("each has some", all(parts), True)
    for client in [*members, outside, publisher]:
        client.disconnect()


SCENARIOS = {
    "qos0": lambda: exchange(0),
    "qos1": lambda: exchange(1),
    "qos2": lambda: exchange(2),
    "tls": lambda: exchange(1),
    "will": will,
    "retained": retained,
    "resume": resume,
    "shared": shared,
}
SCENARIOS[SCENARIO]()
