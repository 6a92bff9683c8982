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
    /// The kill was too near to tell.
    May,
    /// DISCONNECT has discarded it.
    Never,
}

/// A client that comes and goes with wills.
#[derive(Debug)]
pub struct Guest {
    pub present: Known<bool>,
    /// The session expiry interval of its connection.
    pub expiry_s: u32,
    /// The will of its connection, and whether the broker's disk has it.
    will: Option<(u32, bool)>,
    /// Those that DISCONNECT has discarded, and the disk may have still.
    discarded: Vec<u32>,
    pub fates: BTreeMap<u32, Fate>,
}

impl Guest {
    pub fn new() -> Self {
        let (will, discarded, fates) = (None, Vec::new(), BTreeMap::new());
        Self { present: Known::new(false), expiry_s: 0, will, discarded, fates }
    }

    /// CONNACK has come.
    pub fn connected(&mut self, number: u16, expiry_s: u32, will: Option<u32>) {
        self.published();
        self.present.ask(number, expiry_s > 0);
        self.expiry_s = expiry_s;
        self.will = will.map(|will| (will, false));
    }

    /// The connection is over, or another has taken it over: the will is published.
    pub fn published(&mut self) {
        if let Some((will, on_disk)) = self.will.take() {
            self.fates.insert(will, if on_disk { Fate::Must } else { Fate::May });
        }
    }

    /// DISCONNECT has been handled: with 0x00 it discards the will.
    pub fn left(&mut self, number: u16, with_will: bool, expiry_s: Option<u32>) {
        if with_will {
            self.published();
        }
        self.discarded.extend(self.will.take().map(|(will, _)| will));
        self.expiry_s = expiry_s.unwrap_or(self.expiry_s);
        self.present.ask(number, self.expiry_s > 0);
    }

    /// Whatever has been handled is on the disk.
    pub fn fenced(&mut self) {
        self.present.acknowledged(u16::MAX);
        if let Some((_, on_disk)) = &mut self.will {
            *on_disk = true;
        }
        self.fates.extend(self.discarded.drain(..).map(|will| (will, Fate::Never)));
    }

    /// The broker is gone.
    pub fn killed(&mut self) {
        self.published();
        self.fates.extend(self.discarded.drain(..).map(|will| (will, Fate::May)));
    }
}
