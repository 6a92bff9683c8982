//! Every interleaving of an interrupt that sends and a main loop that receives, on the ring that the mailbox is made of.
#![cfg(loom)]

mod atomic {
    pub use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
}

#[path = "../../src/mailbox/ring.rs"]
mod ring;

#[cfg(test)]
mod tests {
    use super::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
    use super::ring::{self, Ends};
    use loom::sync::Arc;
    use loom::thread;

    struct Ring {
        bytes: Vec<AtomicU8>,
        ends: Ends,
    }

    fn empty(size: usize) -> Arc<Ring> {
        let ends = Ends {
            read: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            lost: std::array::from_fn(|_| AtomicU32::new(0)),
        };
        Arc::new(Ring { bytes: (0..size).map(|_| AtomicU8::new(0)).collect(), ends })
    }

    /// A message says its own length, and all its bytes are its number.
    fn receive(ring: &Ring, numbers: &mut Vec<u8>) {
        while let Some(mut at) = ring::pending(&ring.ends) {
            let len = ring::byte(&ring.bytes, &mut at);
            let number = ring::byte(&ring.bytes, &mut at);
            for _ in 2..len {
                assert_eq!(ring::byte(&ring.bytes, &mut at), number, "a message is seen whole, or not at all");
            }
            numbers.push(number);
            ring::done(&ring.ends, at);
        }
    }

    fn story(size: usize, lens: &'static [u8]) {
        let runs = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let of_model = runs.clone();
        loom::model(move || {
            of_model.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let ring = empty(size);
            let sender = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || {
                    // What is there already, stored again: loom (0.7, issue 392) tries no other order for a thread whose
                    // first access is a load, as `put`'s is.
                    ring.ends.written.store(0, Ordering::Relaxed);
                    let mut sent = Vec::new();
                    for (number, len) in lens.iter().enumerate() {
                        let number = number as u8 + 1;
                        let body = vec![number; usize::from(*len) - 2];
                        if ring::put(&ring.bytes, &ring.ends, 0, [&[*len], &[number], &body]) {
                            sent.push(number);
                        }
                    }
                    sent
                })
            };
            let mut received = Vec::new();
            receive(&ring, &mut received);
            let lost_before = ring::lost(&ring.ends, 0);
            receive(&ring, &mut received);
            let sent = sender.join().unwrap();
            receive(&ring, &mut received);
            assert_eq!(received, sent, "in order, and each once");
            let lost = ring::lost(&ring.ends, 0);
            assert_eq!(sent.len() + lost as usize, lens.len(), "what had no room is counted");
            assert!(lost_before <= lost);
        });
        let runs = runs.load(std::sync::atomic::Ordering::Relaxed);
        assert!(runs > 100, "{runs} interleavings");
    }

    #[test]
    fn messages_that_fit_one_at_a_time() {
        story(5, &[3, 4, 3]);
    }

    #[test]
    fn messages_that_would_fill_it() {
        story(5, &[3, 2, 3]);
    }

    #[test]
    fn messages_that_wrap() {
        story(6, &[2, 3, 2]);
    }

    #[test]
    fn messages_that_all_fit() {
        story(8, &[3, 3]);
    }
}
