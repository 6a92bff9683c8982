//! For how long a queue has held publishers up. A client that takes a message now and then, each of whose places is taken by
//! the next at once, holds them up as much as one that takes none: the time ends when what waited at its beginning has been
//! taken, or half of the queue is empty.

/// Since when, and what there was then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall {
    since_s: u32,
    /// When it was looked at last.
    looked_s: u32,
    /// It has been full since then.
    was_full: bool,
    begun: Turnover,
}

/// How far a queue has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turnover {
    /// Messages in it.
    pub(crate) queued: u64,
    /// Messages that have left it, for whatever reason.
    pub(crate) gone: u64,
}

/// What [`Stall::look`] sees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) full: bool,
    /// A publisher waits for it, or was refused not long ago.
    pub(crate) held_up: bool,
    pub(crate) turnover: Turnover,
}

impl Stall {
    /// The queue is full from now on, or once more.
    pub(crate) fn fill(stall: &mut Option<Self>, now_s: u32, begun: Turnover) {
        stall.get_or_insert(Self { since_s: now_s, looked_s: now_s, was_full: true, begun }).was_full = true;
    }

    /// Seconds in which it has held publishers up, if it is full now. To be asked now and then.
    pub(crate) fn look(
        stall: &mut Option<Self>,
        now_s: u32,
        Look { full, held_up, turnover: now }: Look,
    ) -> Option<u32> {
        let here = stall.as_mut()?;
        if now.gone.saturating_sub(here.begun.gone) >= here.begun.queued || now.queued <= here.begun.queued / 2 {
            *stall = full.then_some(Self { since_s: now_s, looked_s: now_s, was_full: true, begun: now });
            return None;
        }
        let was_full = std::mem::replace(&mut here.was_full, full) || full;
        if !was_full || !held_up {
            // Nobody has had to wait meanwhile.
            here.since_s += now_s.saturating_sub(here.looked_s);
        }
        here.looked_s = now_s;
        full.then(|| now_s.saturating_sub(here.since_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> Option<Stall> {
        let mut stall = None;
        Stall::fill(&mut stall, 100, Turnover { queued: 10, gone: 50 });
        stall
    }

    fn look(stall: &mut Option<Stall>, now_s: u32, queued: u64, gone: u64) -> Option<u32> {
        let turnover = Turnover { queued, gone };
        Stall::look(stall, now_s, Look { full: queued >= 10, held_up: true, turnover })
    }

    /// A full queue to which nobody publishes loses nothing.
    #[test]
    fn a_full_queue_that_nobody_waits_for_holds_nobody_up() {
        let mut stall = begun();
        let idle = Look { full: true, held_up: false, turnover: Turnover { queued: 10, gone: 50 } };
        assert_eq!(look(&mut stall, 105, 10, 50), Some(5));
        assert_eq!(Stall::look(&mut stall, 1000, idle), Some(5));
        assert_eq!(look(&mut stall, 1001, 10, 50), Some(6));
    }

    #[test]
    fn a_message_now_and_then_does_not_end_it() {
        let mut stall = begun();
        for n in 1..10u32 {
            // One was taken, and the next publisher has filled the place.
            Stall::fill(&mut stall, 100 + n, Turnover { queued: 10, gone: 50 + u64::from(n) });
            assert_eq!(look(&mut stall, 100 + n, 10, 50 + u64::from(n)), Some(n));
        }
        assert_eq!(look(&mut stall, 110, 10, 60), None, "what waited then has been taken: it begins anew");
        assert_eq!(look(&mut stall, 113, 10, 61), Some(3));
    }

    #[test]
    fn half_of_it_empty_ends_it() {
        let mut stall = begun();
        assert_eq!(look(&mut stall, 101, 6, 54), None);
        assert!(stall.is_some(), "it is not full now, but has not drained");
        assert_eq!(look(&mut stall, 102, 5, 55), None);
        assert!(stall.is_none());
    }

    #[test]
    fn time_in_which_nobody_waits_does_not_count() {
        let mut stall = begun();
        assert_eq!(look(&mut stall, 105, 10, 50), Some(5));
        assert_eq!(look(&mut stall, 106, 9, 51), None);
        assert_eq!(look(&mut stall, 1000, 9, 51), None);
        Stall::fill(&mut stall, 1000, Turnover { queued: 10, gone: 51 });
        assert_eq!(look(&mut stall, 1001, 10, 51), Some(7));
    }
}
