//! Properties of MQTT 5 on a command line: `--user-property NAME=VALUE` and the like, and mosquitto's
//! `-D COMMAND PROPERTY VALUE…`.

use clap::Args;
use forebay_client::Properties as MessageProperties;

use super::exit::Failure;

/// As they stand on the command line.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Properties (MQTT 5)")]
pub struct PropertyArgs {
    /// A property after mosquitto's habit: -D publish content-type text/plain, -D connect user-property NAME VALUE
    #[arg(short = 'D', long = "property", value_names = ["COMMAND", "PROPERTY", "VALUE"], num_args = 3..=4, allow_negative_numbers = true)]
    property: Vec<String>,
    /// A user property of each message; may be given several times
    #[arg(long, value_name = "NAME=VALUE", allow_hyphen_values = true)]
    user_property: Vec<String>,
}

/// What they mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// User properties of CONNECT.
    pub connect: Vec<(String, String)>,
    /// User properties of SUBSCRIBE.
    pub subscribe: Vec<(String, String)>,
    /// Of each message.
    pub publish: MessageProperties,
    /// Message expiry interval in seconds.
    pub expiry_s: Option<u32>,
}

impl Properties {
    /// Whether MQTT 3.1.1 could not carry them.
    #[must_use]
    pub fn needs_v5(&self) -> bool {
        !self.connect.is_empty() || !self.subscribe.is_empty() || self.publish != MessageProperties::default()
    }

    /// Reads them.
    ///
    /// # Errors
    /// What is wrong, and what there is.
    pub fn read(args: &PropertyArgs) -> Result<Self, Failure> {
        let mut all = Self::default();
        for pair in &args.user_property {
            let pair =
                pair.split_once('=').ok_or_else(|| Failure::usage(format!("--user-property {pair}: NAME=VALUE")))?;
            all.publish.user.push((pair.0.to_owned(), pair.1.to_owned()));
        }
        let mut words = args.property.iter().map(String::as_str);
        while let Some(command) = words.next() {
            let (name, value) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            all.take(command, name, value, &mut words)?;
        }
        Ok(all)
    }

    fn take<'a>(
        &mut self,
        command: &str,
        name: &str,
        value: &str,
        more: &mut impl Iterator<Item = &'a str>,
    ) -> Result<(), Failure> {
        let owned = || value.to_owned();
        let seconds = || value.parse().map_err(|_| Failure::usage(format!("-D {command} {name} {value}: seconds")));
        match (command.to_ascii_lowercase().as_str(), name) {
            (command @ ("connect" | "publish" | "subscribe"), "user-property") => {
                let second = more.next();
                let second =
                    second.ok_or_else(|| Failure::usage(format!("-D {command} {name} NAME VALUE: no value")))?;
                let list = match command {
                    "connect" => &mut self.connect,
                    "subscribe" => &mut self.subscribe,
                    _ => &mut self.publish.user,
                };
                list.push((owned(), second.to_owned()));
            }
            ("publish", "content-type") => self.publish.content_type = Some(owned()),
            ("publish", "response-topic") => self.publish.response_topic = Some(owned()),
            ("publish", "correlation-data") => self.publish.correlation_data = Some(owned().into_bytes().into()),
            ("publish", "payload-format-indicator") => self.publish.payload_is_utf8 = value == "1",
            ("publish", "message-expiry-interval") => self.expiry_s = Some(seconds()?),
            _ => {
                return Err(Failure::usage(format!(
                    "-D {command} {name}: there are connect, publish and subscribe user-property; publish content-type, \
                     response-topic, correlation-data, payload-format-indicator and message-expiry-interval"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(property: &[&str]) -> Result<Properties, Failure> {
        let property = property.iter().map(|word| (*word).to_owned()).collect();
        Properties::read(&PropertyArgs { property, user_property: vec!["a=b=c".to_owned()] })
    }

    #[test]
    fn mosquittos_habit_is_understood() {
        let all = read(&["PUBLISH", "user-property", "k", "v", "connect", "user-property", "x", "y"]).unwrap();
        assert_eq!(all.publish.user, [("a".into(), "b=c".into()), ("k".into(), "v".into())]);
        assert_eq!(all.connect, [("x".into(), "y".into())]);
        assert_eq!(read(&["publish", "message-expiry-interval", "5"]).unwrap().expiry_s, Some(5));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for wrong in [
            &["publish", "user-property", "k"][..],
            &["publish", "color", "red"],
            &["publish", "message-expiry-interval", "x"],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
