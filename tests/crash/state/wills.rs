//! A client that comes and goes with wills, and who is given them.

use std::time::{Duration, Instant};

use forebay_tests::packet::build::{Connect, Publish, Will, disconnect};
use forebay_tests::packet::property::Property;
use forebay_tests::packet::{DISCONNECT, Version};

use super::model::{self, Delay, Fate};
use super::{HOUR_S, PATIENCE, Play, kept, number_of};

const TOPIC: &str = "w/guest";

/// What may be retained on the topic of the wills.
#[derive(Debug, Default)]
pub struct RetainedWills {
    /// Wills and others, in the order in which they are published.
    all: Vec<u16>,
    /// One that came to the watcher at QoS 1 before a kill may have been forgotten.
    at_qos_1: Vec<u16>,
    found: Option<u16>,
}

impl Play {
    /// The guest comes, again perhaps, or goes.
    pub fn visit(&mut self) {
        match self.below(5) {
            0 if self.guest.is_connected() => {
                self.guest.cut();
                self.visits.cut();
            }
            1 | 2 if self.guest.is_connected() => self.guest_leaves(),
            _ => self.guest_comes(),
        }
        if self.below(3) > 0 {
            self.fence();
        }
    }

    fn guest_leaves(&mut self) {
        let number = self.number();
        if self.version != Version::V5 {
            self.guest.leave(&DISCONNECT);
            self.visits.left(number, false, None);
            return;
        }
        let with_will = self.below(3) == 0;
        let other = self.visits.expiry_s > 0 && self.below(2) == 0;
        let expiry_s = other.then(|| [0, HOUR_S][self.below(2)]);
        let properties: Vec<Property> = expiry_s.into_iter().map(Property::SessionExpiry).collect();
        self.guest.leave(&disconnect(if with_will { 4 } else { 0 }, &properties));
        self.visits.left(number, with_will, expiry_s);
    }

    fn guest_comes(&mut self) {
        let number = self.number();
        let v5 = self.version == Version::V5;
        let clean = self.below(3) == 0;
        let expiry_s = match v5 {
            true => [0, HOUR_S, HOUR_S][self.below(3)],
            false if clean => 0,
            false => HOUR_S,
        };
        let connect = Connect::new(self.version, "guest");
        let connect = if v5 { connect.with(Property::SessionExpiry(expiry_s)) } else { connect };
        let connect = if clean { connect } else { connect.resume() };
        let (qos, retain) = (1 + self.below(2) as u8, self.below(2) == 0);
        let will = Will::new(TOPIC, number.to_string().as_bytes()).qos(qos);
        let will = if retain { will.retain() } else { will };
        let delay = if v5 { [Delay::None, Delay::Second, Delay::Hour][self.below(3)] } else { Delay::None };
        let delayed = || will.clone().with(Property::WillDelay(delay.seconds()));
        let will = if delay == Delay::None { will } else { delayed() };
        self.guest.connect(self.broker.port(), &connect.will(will));
        self.visits.connected(number, clean, expiry_s, Some(model::Will { number, delay }));
        if retain {
            self.retained_wills.all.push(number);
        }
        if qos == 2 {
            self.exactly_once.insert(number);
        } else {
            self.retained_wills.at_qos_1.push(number);
        }
    }

    /// After a kill. In the end the guest is there, without a will.
    pub fn look_at_guest(&mut self) {
        if let Some(will) = self.visits.due_soon()
            && self.below(2) == 0
        {
            self.until_it_came(will);
            self.visits.is_due();
        }
        let present = self.guest.connect(self.broker.port(), &kept(self.version, "guest"));
        self.visits.present.find(&format!("the guest's session is there: {present}"), |known| *known == present);
        let number = self.number();
        self.visits.connected(number, false, HOUR_S, None);
        self.watch();
        self.look_at_retained_will();
        if self.below(3) == 0 {
            self.replace_retained_will();
        }
    }

    /// Takes what has come until now.
    fn watch(&mut self) {
        if !self.watcher.is_connected() {
            let kept = kept(self.version, "watcher");
            assert!(self.watcher.connect(self.broker.port(), &kept), "the watcher's session");
        }
        let end = self.number();
        let packet = Publish::new(self.version, "w/end", format!("end {end}").as_bytes()).qos(2, end);
        self.publisher.send(&packet.packet());
        self.publisher.until_acknowledged(end);
        self.watcher.until_came(&format!("end {end}"));
    }

    /// Wills that have come, in order.
    fn came(&self) -> Vec<u16> {
        self.watcher.came.iter().filter_map(|message| number_of(&message.payload)).collect()
    }

    fn until_it_came(&mut self, will: u16) {
        let begun = Instant::now();
        loop {
            self.watch();
            if self.came().contains(&will) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "will {will} never came");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is retained is the last that was published with RETAIN, as far as it was not forgotten.
    fn look_at_retained_will(&mut self) {
        let came = self.came();
        let found = self.found_retained(TOPIC).get(TOPIC).copied();
        let RetainedWills { all, at_qos_1, found: before } = &self.retained_wills;
        let published = || all.iter().copied().filter(|number| came.contains(number));
        let certain = |number: &u16| !at_qos_1.contains(number) || self.visits.fates.get(number) == Some(&Fate::Must);
        let least = published().rfind(certain).max(*before);
        let possible: Vec<Option<u16>> =
            published().map(Some).chain([None]).filter(|number| *number >= least).collect();
        assert!(possible.contains(&found), "{TOPIC} is {found:?}, where it may be {possible:?}");
        self.retained_wills.found = found;
    }

    /// Another message is retained where the next will is.
    fn replace_retained_will(&mut self) {
        let number = self.number();
        let packet = Publish::new(self.version, TOPIC, number.to_string().as_bytes()).qos(1, number).retain();
        self.publisher.send(&packet.packet());
        self.publisher.until_acknowledged(number);
        self.visits.fates.insert(number, Fate::Must);
        self.retained_wills.all.push(number);
    }

    pub fn check_wills(&mut self) {
        let must = self.visits.fates.iter().filter(|(_, fate)| **fate == Fate::Must);
        for will in must.map(|(will, _)| *will).collect::<Vec<_>>() {
            self.until_it_came(will);
        }
        let came = self.came();
        let fates = &self.visits.fates;
        for will in &came {
            assert!(matches!(fates.get(will), Some(Fate::Must | Fate::May)), "will {will}: {:?}", fates.get(will));
        }
        let twice = self.exactly_once.iter().find(|will| came.iter().filter(|came| came == will).count() > 1);
        assert_eq!(twice, None, "a will of QoS 2 came twice");
    }
}
