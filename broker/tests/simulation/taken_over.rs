//! A connection that has been taken over, and is polled once more, must not take the wake-up of its successor.

use std::sync::Arc;
use std::task::Poll;

use forebay::message::{Message, Parts};
use forebay::session::Durability;

use crate::everybody_is_there;
use crate::world::World;

/// Publishes one message `polls` turns of the scheduler after the second connection has opened the session: one of
/// these lies between the first turn of that connection and the last turn of the one before.
fn publish_after(world: &mut World, polls: u32) {
    let broker = world.broker();
    let mut left = polls;
    world.spawn(std::future::poll_fn(move |cx| {
        let slots = broker.all_slots();
        let slot = slots.iter().find(|slot| slot.look(|s| &**s.client_id() == "s0")).unwrap();
        if slot.look(|s| s.epoch()) > 1 {
            if left == 0 {
                let parts = Parts {
                    topic: "t/x/0",
                    properties: &[],
                    payload: &7u32.to_be_bytes(),
                    qos: 0,
                    retain: false,
                    expires_at: None,
                    accepted_at: broker.clock.now(),
                };
                broker.publish(&Arc::new(Message::new(&parts, None)), false, Durability::Memory, None);
                return Poll::Ready(());
            }
            left -= 1;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }));
}

#[test]
fn a_take_over_loses_no_wake_up() {
    for polls in 0..12 {
        let mut world = World::new(3);
        everybody_is_there(&mut world);
        world.commit(false);
        // The first connection stays half open: its peer is gone without a word.
        let half_open = world.clients[0].stream.take();
        publish_after(&mut world, polls);
        world.connect(0);
        for _ in 0..20 {
            world.carry(0, 4096);
            world.run(3);
        }
        let taken = &world.clients[0].taken;
        assert_eq!(taken.len(), 1, "published {polls} turns after the take-over: {taken:?}");
        drop(half_open);
    }
}
