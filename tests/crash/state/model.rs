//! What the broker may know after a kill.

use std::collections::BTreeMap;
use std::fmt::Debug;

/// A piece of state: what was acknowledged last, then what was asked for since, each with its number.
#[derive(Debug, Clone)]
pub struct Known<T> {
    possible: Vec<(u16, T)>,
}

impl<T: Clone + PartialEq + Debug> Known<T> {
    pub fn new(value: T) -> Self {
        Self { possible: vec![(0, value)] }
    }

    /// It is to become this. What was asked for under one number is one or the other.
    pub fn ask(&mut self, number: u16, value: T) {
        self.possible.push((number, value));
    }

    /// What was asked for up to this number is on the disk.
    pub fn acknowledged(&mut self, number: u16) {
        let last = self.possible.iter().rev().find(|(asked, _)| *asked <= number).map(|(asked, _)| *asked);
        if let Some(last) = last {
            self.possible.retain(|(asked, _)| *asked >= last);
        }
    }

    /// A look has found what it is, or the first of those that look like it.
    pub fn find(&mut self, what: &str, looks: impl Fn(&T) -> bool) {
        let found = self.possible.iter().find(|(_, value)| looks(value)).map(|(_, value)| value.clone());
        let Some(found) = found else { panic!("{what}, where it may be {:?}", self.possible) };
        *self = Self::new(found);
    }
}

/// What is to become of a will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is published.
    Must,
    /// The kill was too near to tell, or the end of its delay.
    May,
    /// DISCONNECT has discarded it, or its client came back before its delay was over.
    Never,
}

/// How long after the end of its connection a will is published, unless its session ends before or goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    None,
    /// The test waits for it now and then.
    Second,
    /// It is never over here.
    Hour,
}

impl Delay {
    pub fn seconds(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Second => 1,
            Self::Hour => 3600,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Will {
    pub number: u16,
    pub delay: Delay,
}

/// A will that is neither published nor discarded.
#[derive(Debug)]
struct Open {
    will: Will,
    on_disk: bool,
    /// The session expiry interval that came with it.
    expiry_s: u32,
}

impl Open {
    /// Whether its session is there when its connection is over, and whatever the disk has forgotten it waits.
    fn waits(&self) -> bool {
        self.will.delay != Delay::None && self.expiry_s > 0
    }

    fn published(&self) -> Fate {
        if self.on_disk { Fate::Must } else { Fate::May }
    }
}

/// A client that comes and goes with wills.
#[derive(Debug)]
pub struct Guest {
    pub present: Known<bool>,
    /// The session expiry interval of its connection.
    pub expiry_s: u32,
    /// The will of its connection, or of the last one if its delay is not over.
    open: Option<Open>,
    /// What has become of wills, but after a kill the disk may have them as they were.
    unfenced: Vec<(u16, Fate)>,
    pub fates: BTreeMap<u16, Fate>,
}

impl Guest {
    pub fn new() -> Self {
        let (open, unfenced, fates) = (None, Vec::new(), BTreeMap::new());
        Self { present: Known::new(false), expiry_s: 0, open, unfenced, fates }
    }

    /// CONNACK has come.
    pub fn connected(&mut self, number: u16, clean: bool, expiry_s: u32, will: Option<Will>) {
        if clean || self.expiry_s == 0 {
            self.session_ended()
        } else {
            self.session_goes_on()
        }
        if clean {
            // What it replaces is gone at once; itself is on disk with the next commit.
            self.present.ask(number - 1, false);
        }
        self.present.ask(number, expiry_s > 0);
        self.expiry_s = expiry_s;
        self.open = will.map(|will| Open { will, on_disk: false, expiry_s });
    }

    /// The connection is over without DISCONNECT, or with one that asks for the will.
    pub fn cut(&mut self) {
        if self.expiry_s == 0 {
            self.session_ended();
        } else if let Some(open) = self.open.take_if(|open| !open.waits()) {
            self.fates.insert(open.will.number, open.published());
        }
    }

    /// DISCONNECT has been handled: with 0x00 it discards the will.
    pub fn left(&mut self, number: u16, with_will: bool, expiry_s: Option<u32>) {
        self.expiry_s = expiry_s.unwrap_or(self.expiry_s);
        self.present.ask(number, self.expiry_s > 0);
        if with_will {
            self.cut();
        } else if let Some(open) = self.open.take() {
            self.unfenced.push((open.will.number, Fate::Never));
        }
    }

    /// The number of a will whose delay will be over soon, and which has to come then.
    pub fn due_soon(&self) -> Option<u16> {
        let open = self.open.as_ref().filter(|open| open.will.delay == Delay::Second && open.on_disk);
        open.map(|open| open.will.number)
    }

    /// Its delay is over.
    pub fn is_due(&mut self) {
        if let Some(open) = self.open.take() {
            self.fates.insert(open.will.number, open.published());
        }
    }

    /// Whatever has been handled is on the disk.
    pub fn fenced(&mut self) {
        self.present.acknowledged(u16::MAX);
        if let Some(open) = &mut self.open {
            open.on_disk = true;
        }
        self.fates.extend(self.unfenced.drain(..));
    }

    /// The broker is gone.
    pub fn killed(&mut self) {
        self.cut();
        if let Some(open) = self.open.take_if(|open| !open.on_disk) {
            self.fates.insert(open.will.number, Fate::May);
        }
        self.fates.extend(self.unfenced.drain(..).map(|(will, _)| (will, Fate::May)));
    }

    /// A will is published at the end of its session whatever its delay [MQTT5-3.1.3.2.2].
    fn session_ended(&mut self) {
        let Some(open) = self.open.take() else { return };
        if open.waits() {
            self.unfenced.push((open.will.number, open.published()));
        } else {
            self.fates.insert(open.will.number, open.published());
        }
    }

    /// A connection goes on with the session before the delay of its will is over: the will is never published
    /// [MQTT5-3.1.3-9].
    fn session_goes_on(&mut self) {
        let Some(open) = self.open.take() else { return };
        match open.will.delay {
            Delay::None => drop(self.fates.insert(open.will.number, open.published())),
            // Nobody knows whether it was over.
            Delay::Second => drop(self.fates.insert(open.will.number, Fate::May)),
            Delay::Hour => self.unfenced.push((open.will.number, Fate::Never)),
        }
    }
}
