//! A store in flash behind the outbox, over `embedded-storage`. It takes over what the outbox has no room for, and what must
//! survive a power cut.
//!
//! Two areas of flash, each of whole sectors: one for messages, a ring in which the oldest sector is erased when all in it
//! has ended, and one of at least two sectors for the session, which is written again and again into the next free place.
//! So wear spreads over all sectors by itself.
//!
//! # How it is driven
//!
//! [`Tier::recover`] at the start; then, each time before the client is asked what to send, [`Store::settle`], and after
//! that and before the bytes leave, [`Store::seal`]. The [task](crate::adapter::task) does so by itself when it is
//! [given](crate::adapter::task::Device::split_with) the tier.
//!
//! # What it does
//!
//! - Above [`Config::high`] bytes in the outbox it moves messages out until [`Config::low`] are left, those first that would
//!   be sent last. They come back, in order, when there is a connection and room.
//! - A message of QoS 2, and any message of a class in [`Config::safe`], is written before it is sent, and waits for that.
//! - A message stays in flash until it has ended; then it is marked, and its sector is erased when room is needed.
//! - Identifiers of QoS 2, both ways, are written before the packet leaves that makes them count.
//!
//! # What holds after a power cut, at any write
//!
//! - A message that is [stored](Tier::is_stored) arrives: QoS 1 at least once, QoS 2 exactly once, in order within its
//!   class; or its end is counted (expired, refused).
//! - A message that was only in memory is gone with it. [`Recovered::missing`] says how many those can be at most that were
//!   known when the session was last written. Publish what must not be lost in a [safe](Config::safe) class, and count it as
//!   taken when it is stored.
//! - QoS 0 arrives at most once.
//! - A message that was dropped, and counted, shortly before the cut may still arrive.
//! - When flash was full, messages of QoS 2 waited in the outbox (and are not safe there). One that is larger than
//!   [`Config::largest`] is sent without being stored, and counted in [`Tier::unsafe_sent`]: after a power cut it arrives at
//!   most once.
//! - What is read wrongly once, or fails to be read, is not lost: it is read again before its place is taken for free.
//! - A place that stays unreadable, as a power cut leaves it where flash checks what it reads, costs the message or the session
//!   that lies there and no other. What is written is read again, and written behind such a place.
//! - Flash that has failed for a minute ([`Tier::has_failed`]) holds nothing up any more: messages of all kinds are sent from
//!   memory, and nothing is promised for a power cut. It is tried again every ten seconds; what lies in it is sent when that
//!   works, after what was published meanwhile.
//! - The session that is read back may be older than the last packet that was sent, but never in what matters: what is in
//!   flight with QoS 2. Messages of QoS 1 that were on their way are sent again as new ones; subscriptions are made again.

mod blocking;
mod ring;
mod session;
mod spill;
mod sweep;

pub use blocking::Blocking;

use crate::client::Client;
use crate::message::{CLASSES, Class, Ticket};
use crate::store::{Access, Store, StoreFailed};
use core::ops::Range;
use embedded_storage_async::nor_flash::NorFlash;
use ring::Lane;

/// Before each record: its length and its checksum.
const FRONT: usize = 8;
/// Before each message: when it was stored, in ticks of this boot.
const STAMP: usize = 4;
/// How often flash is read before what was read there is taken for damaged, or for unreadable.
const READINGS: usize = 2;
/// Flash that has failed for so long is done without, in milliseconds.
const FAILED_MS: u64 = 60_000;
/// It is tried again after this, in milliseconds.
const AGAIN_MS: u64 = 10_000;
/// How many messages of QoS 2 can be in flight.
pub const FLOWN_MAX: usize = 16;

/// Reads, and once more when flash fails.
async fn read(flash: &mut impl NorFlash, at: u32, to: &mut [u8]) -> Result<(), StoreFailed> {
    for _ in 0..READINGS {
        if flash.read(at, to).await.is_ok() {
            return Ok(());
        }
    }
    Err(StoreFailed)
}

/// The same around places that stay unreadable while `elsewhere` can be read: a write that a power cut broke off leaves such
/// where flash checks what it reads. Those are zeros then, so that they look like what is written and is nothing. False: there
/// are some.
async fn read_around(
    flash: &mut impl NorFlash,
    at: u32,
    to: &mut [u8],
    step: usize,
    elsewhere: impl Iterator<Item = u32> + Clone,
) -> Result<bool, StoreFailed> {
    if read(flash, at, to).await.is_ok() {
        return Ok(true);
    }
    let (mut at, mut whole) = (at, true);
    for piece in to.chunks_mut(step) {
        let mut works = read(flash, at, piece).await.is_ok();
        for _ in 0..READINGS {
            if works {
                break;
            }
            // Flash that does not work at all holds what it held.
            read_any(flash, piece, elsewhere.clone()).await?;
            works = read(flash, at, piece).await.is_ok();
        }
        if !works {
            piece.fill(0);
            whole = false;
        }
        at = at.saturating_add(step as u32);
    }
    Ok(whole)
}

/// Whether anything can be read.
async fn read_any(
    flash: &mut impl NorFlash,
    to: &mut [u8],
    elsewhere: impl Iterator<Item = u32>,
) -> Result<(), StoreFailed> {
    for at in elsewhere {
        if read(flash, at, to).await.is_ok() {
            return Ok(());
        }
    }
    Err(StoreFailed)
}

/// Where and when messages are stored.
#[derive(Clone, Debug)]
pub struct Config {
    /// Flash for messages: whole sectors, three or more.
    pub messages: Range<u32>,
    /// Flash for the session: whole sectors, two or more.
    pub session: Range<u32>,
    /// Bytes in the outbox above which messages move out.
    pub high: u32,
    /// Bytes in the outbox down to which they move out, and up to which they come back.
    pub low: u32,
    /// Bytes of the largest message in the outbox, see [the documentation of the crate](crate#memory). So many are kept free
    /// for messages that come back.
    pub largest: u32,
    /// Classes whose messages are stored before they are sent, whatever their QoS, by [`Class`].
    pub safe: [bool; CLASSES],
}

/// What was found after a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Recovered {
    /// Messages in flash that wait.
    pub waiting: u32,
    /// Messages of QoS 2 that were in flight, and still are.
    pub in_flight: u32,
    /// Messages that the session knew of when it was last written, and that are not there: acknowledged since, or lost with
    /// the memory.
    pub missing: u32,
    /// Messages of QoS 2 in flight that had not been stored ([`Tier::unsafe_sent`]): they arrived or are lost.
    pub uncertain: u32,
    /// There was a session.
    pub session: bool,
}

/// What was to become of a message that is being marked as ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    /// It goes back into the outbox: QoS 0, which must not be in both.
    Moves(Class, Ticket),
    /// It ended while it was being stored.
    Ends(Ticket),
}

/// How one kind of work with flash goes.
#[derive(Clone, Copy, Debug, Default)]
struct Health {
    /// Since when it has failed each time.
    failing_since: Option<u64>,
    tried_at: u64,
}

impl Health {
    fn note(&mut self, now: u64, works: bool) {
        self.tried_at = now;
        self.failing_since = if works { None } else { self.failing_since.or(Some(now)) };
    }

    fn has_failed(&self) -> bool {
        self.failing_since.is_some_and(|since| self.tried_at.saturating_sub(since) >= FAILED_MS)
    }

    /// Whether it is worth while.
    fn is_due(&self, now: u64) -> bool {
        !self.has_failed() || now.saturating_sub(self.tried_at) >= AGAIN_MS
    }
}

/// A store in flash behind the outbox.
pub struct Tier<'t, F> {
    flash: F,
    config: Config,
    buffer: &'t mut [u8],
    lanes: [Lane; CLASSES],
    /// Messages that were in flight when the device started.
    flown: [u32; FLOWN_MAX],
    /// The first ticket of this boot.
    boot: u32,
    /// How long the device was off, as far as it knows.
    slept_ms: u32,
    /// The session that is stored.
    digest: Option<u32>,
    /// Where it is stored next, when that is known.
    place: Option<session::Place>,
    /// Ends of messages that the last look at the flash knew of.
    ended: u32,
    /// Flash and memory may not agree: an operation was not completed.
    torn: bool,
    /// A message whose way out of flash was not completed.
    half: Option<Half>,
    /// The next ticket when the client was last told what it may send.
    told: u32,
    /// Where the next message goes, when that is known.
    end: Option<ring::End>,
    unsafe_sent: u32,
    /// Of [`Store::settle`] and of [`Store::seal`].
    settling: Health,
    sealing: Health,
}

impl<'t, F: NorFlash> Tier<'t, F> {
    /// Over these areas of `flash`. `buffer` has room for the largest message, and 128
    /// bytes more; and for the session: 200
    /// bytes, 20 for each message of QoS 2 in flight, and the subscriptions.
    pub fn new(flash: F, config: Config, buffer: &'t mut [u8]) -> Self {
        Self {
            flash,
            config,
            buffer,
            lanes: [const { Lane::new() }; CLASSES],
            flown: [0; FLOWN_MAX],
            boot: 1,
            slept_ms: 0,
            digest: None,
            place: None,
            ended: 0,
            torn: false,
            half: None,
            told: 0,
            end: None,
            unsafe_sent: 0,
            settling: Health::default(),
            sealing: Health::default(),
        }
    }

    /// Whether flash has failed for a minute, each time that it was needed. Messages are sent without being stored then; worth a
    /// report to whoever looks after the device.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.settling.has_failed() || self.sealing.has_failed()
    }

    /// Whether a message is in flash, or has been and has ended. Ask after [`Store::settle`].
    #[must_use]
    pub fn is_stored(&self, class: Class, ticket: Ticket) -> bool {
        !self.torn && !self.has_failed() && self.lane(class).has(ticket.number())
    }

    /// Messages in flash, those included that are in the outbox too or have just ended.
    #[must_use]
    pub fn stored(&self) -> u32 {
        self.lanes.iter().fold(0, |sum, lane| sum.wrapping_add(lane.stored))
    }

    /// How many messages of QoS 2 or of a safe class were sent without being stored, since they were too large.
    #[must_use]
    pub const fn unsafe_sent(&self) -> u32 {
        self.unsafe_sent
    }

    /// The flash. What is written to it besides must stay out of the areas.
    pub const fn flash(&mut self) -> &mut F {
        &mut self.flash
    }

    /// The flash, when the tier is not needed any more.
    pub fn into_flash(self) -> F {
        self.flash
    }

    fn lane(&self, class: Class) -> Lane {
        self.lanes.get(class as usize).copied().unwrap_or(const { Lane::new() })
    }

    fn change(&mut self, class: Class, change: impl FnOnce(&mut Lane)) {
        if let Some(lane) = self.lanes.get_mut(class as usize) {
            change(lane);
        }
    }

    /// Reads what is in flash into a new client: before it connects, and before anything is published. `slept_ms` is how long
    /// the device was off, as far as it knows.
    ///
    /// # Errors
    /// Flash does not work.
    pub async fn recover(
        &mut self,
        client: &mut Client<'_>,
        now: u64,
        slept_ms: u64,
    ) -> Result<Recovered, StoreFailed> {
        let mut recovered = Recovered::default();
        self.slept_ms = u32::try_from(slept_ms).unwrap_or(u32::MAX);
        client.keep_room(self.config.largest);
        self.torn = true;
        (self.lanes, self.flown) = ([const { Lane::new() }; CLASSES], [0; FLOWN_MAX]);
        if let Some(len) = self.load_session().await? {
            let image = self.buffer.get(..len).unwrap_or_default();
            recovered.session = client.import_session(now, slept_ms, image).is_ok();
        }
        self.take_stock(client, now).await?;
        recovered.uncertain = client.drop_hollow();
        recovered.waiting = self.lanes.iter().fold(0, |sum, lane| sum.wrapping_add(lane.away));
        recovered.in_flight = client.pending() as u32;
        recovered.missing = client.recount(recovered.waiting);
        self.boot = client.upcoming();
        self.digest = recovered.session.then(|| client.session_digest());
        self.torn = false;
        self.bar(client);
        Ok(recovered)
    }

    /// Tells the client what is not to be sent yet.
    fn bar(&mut self, client: &mut Client<'_>) {
        self.told = client.upcoming();
        if self.has_failed() {
            for class in Class::ALL {
                client.set_barrier(class, None);
                client.set_stored(class, 0);
            }
            return;
        }
        for class in Class::ALL {
            let lane = self.lane(class);
            let unsafe_one = self.first_unsafe(client, class);
            let away = (lane.away > 0).then_some(lane.cursor);
            let barrier = match (away, unsafe_one) {
                (Some(away), Some(one)) if crate::client::is_from(away, one) => Some(one),
                (away, one) => away.or(one),
            };
            client.set_barrier(class, barrier);
            if !self.torn {
                client.set_stored(class, lane.last);
            }
        }
    }
}

impl<F: NorFlash> Store for Tier<'_, F> {
    async fn settle(&mut self, access: &mut impl Access) -> Result<(), StoreFailed> {
        let now = access.client(|now, _| now).ok_or(StoreFailed)?;
        if !self.settling.is_due(now) {
            return Err(StoreFailed);
        }
        let result = self.move_messages(access).await;
        self.settling.note(now, result.is_ok());
        access.client(|_, client| self.bar(client));
        result
    }

    fn allow(&mut self, client: &mut Client<'_>) {
        if self.told != client.upcoming() {
            self.bar(client);
        }
    }

    async fn seal(&mut self, access: &mut impl Access) -> Result<(), StoreFailed> {
        let (now, digest) = access.client(|now, client| (now, client.session_digest())).ok_or(StoreFailed)?;
        if self.digest == Some(digest) || !self.sealing.is_due(now) {
            return Ok(());
        }
        let result = self.store_session(access, digest).await;
        self.sealing.note(now, result.is_ok());
        if self.has_failed() { Ok(()) } else { result }
    }
}

impl<F: NorFlash> Tier<'_, F> {
    async fn store_session(&mut self, access: &mut impl Access, digest: u32) -> Result<(), StoreFailed> {
        let len = loop {
            // A message that has ended must not be there without the session that says so.
            self.sweep(access, false).await?;
            if self.place.is_none() {
                self.load_session().await?;
            }
            // Another task may have heard of the end of one meanwhile.
            let exported = access.client(|now, client| {
                let is_swept = self.is_swept(client);
                is_swept.then(|| client.export_session(now, self.session_room()))
            });
            if let Some(len) = exported.ok_or(StoreFailed)? {
                break len.ok_or(StoreFailed)?;
            }
        };
        self.digest = None;
        self.save_session(len).await?;
        self.digest = Some(digest);
        Ok(())
    }
}
