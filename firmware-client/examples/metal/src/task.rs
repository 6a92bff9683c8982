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
}

impl Task {
    /// From its words; what is not said is as in the first line.
    pub fn parse(line: &'static str) -> Self {
        let mut task = Self { id: "metal", port: 1883, count: 100, every_ms: 20, size: 16, v5: true };
        for (name, value) in line.split_whitespace().filter_map(|word| word.split_once('=')) {
            let number = value.parse().unwrap_or(0);
            match name {
                "id" => task.id = value,
                "port" => task.port = number as u16,
                "count" => task.count = number,
                "every" => task.every_ms = number,
                "size" => task.size = (number as usize).clamp(10, SIZE_MAX),
                "version" => task.v5 = number == 5,
                _ => {}
            }
        }
        task
    }
}

/// The largest payload.
pub const SIZE_MAX: usize = 512;
