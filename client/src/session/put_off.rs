//! What the server refuses and the program wants to be taken all the same: it waits, and everything behind it waits too. Then one
//! message is tried alone; once it is taken, or dropped, the others follow in their order.

use forebay_wire::reason::ReasonCode;

use crate::event::PutOff;

#[derive(Debug, Default)]
pub(super) struct Waits {
    /// The last refusal.
    why: Option<PutOff>,
    /// The number of the message that is tried.
    tried: Option<u64>,
}

/// What a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The first, or the answer to a try: the wait begins.
    OfTry,
    /// Of a message that was on its way already.
    OfAnother,
}

impl Waits {
    /// A message was refused.
    pub(super) fn refused(&mut self, number: u64, topic: &[u8], reason: ReasonCode) -> Refusal {
        let is_try = self.why.is_none() || self.tried == Some(number);
        if !is_try {
            return Refusal::OfAnother;
        }
        self.tried = None;
        self.why = Some(PutOff { topic: String::from_utf8_lossy(topic).into_owned(), reason });
        Refusal::OfTry
    }

    /// A message was sent.
    pub(super) fn sent(&mut self, number: u64) {
        if self.why.is_some() {
            self.tried = Some(number);
        }
    }

    /// A message was acknowledged, or dropped.
    pub(super) fn ended(&mut self, number: u64) {
        if self.tried == Some(number) {
            *self = Self::default();
        }
    }

    /// What was on its way is not any more.
    pub(super) fn forgotten(&mut self) {
        self.tried = None;
    }

    pub(super) fn why(&self) -> Option<&PutOff> {
        self.why.as_ref()
    }
}
