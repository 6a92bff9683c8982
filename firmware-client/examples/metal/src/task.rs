//! What this device is told to do: words `name=value`, from the debugger.

/// The task.
#[derive(Clone, Copy)]
pub struct Task {
    /// Client identifier, and the first level of every topic.
    pub id: &'static str,
    /// Port of the host.
    pub port: u16,
    /// How many readings, each published once with QoS 1 and once with QoS 2.
    pub count: u32,
    /// Milliseconds between two of them.
    pub every_ms: u32,
    /// Bytes of a payload.
    pub size: usize,
    /// MQTT 5, not 3.1.1.
    pub v5: bool,
    /// Each so-manyth reading is an alarm; 0 is none.
    pub alarm: u32,
    /// Bytes of the outbox.
    pub outbox: usize,
    /// How many messages may wait for their acknowledgement.
    pub window: u16,
    /// Milliseconds that the broker may take for an answer.
    pub patience_ms: u32,
    /// Milliseconds after which it gives up, so that nothing waits for it for ever.
    pub life_ms: u64,
    /// TLS: a file of the host with the certificate to trust, DER.
    #[cfg(feature = "tls")]
    pub ca: &'static str,
    /// TLS: what the broker's certificate is to be for.
    #[cfg(feature = "tls")]
    pub name: &'static str,
}

impl Task {
    /// From its words; what is not said is as in the first line.
    pub fn parse(line: &'static str) -> Self {
        let mut task = Self {
            id: "metal",
            port: 1883,
            count: 100,
            every_ms: 20,
            size: 16,
            v5: true,
            alarm: 0,
            outbox: 8_192,
            window: 8,
            patience_ms: 5_000,
            life_ms: 300_000,
            #[cfg(feature = "tls")]
            ca: "ca.der",
            #[cfg(feature = "tls")]
            name: "localhost",
        };
        for (name, value) in line.split_whitespace().filter_map(|word| word.split_once('=')) {
            let number = value.parse().unwrap_or(0);
            match name {
                "id" => task.id = value,
                "port" => task.port = number as u16,
                "count" => task.count = number,
                "every" => task.every_ms = number,
                "size" => task.size = (number as usize).clamp(10, SIZE_MAX),
                #[cfg(feature = "tls")]
                "ca" => task.ca = value,
                #[cfg(feature = "tls")]
                "name" => task.name = value,
                "version" => task.v5 = number == 5,
                "alarm" => task.alarm = number,
                "outbox" => task.outbox = number as usize,
                "window" => task.window = number as u16,
                "patience" => task.patience_ms = number,
                "life" => task.life_ms = number.into(),
                _ => {}
            }
        }
        task
    }

    /// Whether a reading is an alarm.
    pub fn is_alarm(&self, number: u32) -> bool {
        self.alarm > 0 && number % self.alarm == self.alarm - 1
    }
}

/// The largest payload.
pub const SIZE_MAX: usize = 512;
