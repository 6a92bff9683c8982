//! What is not on disk yet, and what of it a disk without room takes all the same.

use std::collections::HashSet;

use super::load::Fault;
use super::{Store, cancel_out};
use crate::session::journal::Op;

/// More operations than these, and twice as many as were left the last time, are looked through for what cancels out.
const LOOKED_THROUGH_MIN: usize = 64;

/// Operations in order.
#[derive(Default)]
pub(crate) struct Backlog {
    ops: Vec<Op>,
    /// How many were left when they were last looked through.
    left: usize,
}

/// What a commit without the new messages has done for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freed {
    /// Messages were removed: there may be room now.
    Room,
    Nothing,
}

impl Backlog {
    pub(crate) fn extend(&mut self, ops: Vec<Op>) {
        self.ops.extend(ops);
        if self.ops.len() > LOOKED_THROUGH_MIN.max(self.left.saturating_mul(2)) {
            self.look_through();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.ops.len()
    }

    /// All of it in one commit.
    pub(crate) fn commit(&mut self, store: &mut Store) -> Result<(), Fault> {
        let committed = store.commit(&self.ops);
        match committed {
            Ok(()) => *self = Self::default(),
            Err(_) => self.look_through(),
        }
        committed
    }

    /// All but what takes room. `None`: there is nothing else.
    pub(crate) fn commit_acks(&mut self, store: &mut Store) -> Result<Option<Freed>, Fault> {
        if self.ops.iter().all(Op::takes_room) {
            return Ok(None);
        }
        self.look_through();
        let (acks, waiting) = apart(std::mem::take(&mut self.ops));
        let removes = acks.iter().any(|op| matches!(op, Op::Remove { .. }));
        let committed = if acks.is_empty() { Ok(None) } else { store.commit_small(&acks).map(Some) };
        // They are of other messages: which of both comes first is all the same.
        let of_next = if committed.is_ok() { Vec::new() } else { acks };
        self.ops = of_next.into_iter().chain(waiting).collect();
        self.left = self.ops.len();
        Ok(committed?.map(|()| if removes { Freed::Room } else { Freed::Nothing }))
    }

    fn look_through(&mut self) {
        cancel_out(&mut self.ops);
        self.left = self.ops.len();
    }
}

/// What is written first when there is no room, and what waits: new messages, marks, and what such a message replaces, so
/// that one of both is on disk at each moment. Nothing cancels out: none of the first is of a message that waits.
fn apart(ops: Vec<Op>) -> (Vec<Op>, Vec<Op>) {
    let put = |op: &Op| if let Op::Put { number, .. } = op { Some(*number) } else { None };
    let new: HashSet<u64> = ops.iter().filter_map(put).collect();
    ops.into_iter().partition(|op| match op {
        Op::Remove { number } => !new.contains(number),
        Op::Put { .. } | Op::Mark { .. } => false,
        Op::Release { .. } | Op::Seen { .. } | Op::Forget { .. } | Op::ForgetAll => true,
    })
}
