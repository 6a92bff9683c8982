//! What happens when.

use std::time::Duration;

/// How the upstream takes what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upstream {
    /// As fast as it comes.
    Quick,
    /// So many messages a second.
    Slow(u32),
    /// Not connected.
    Away,
}

/// One part of the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scene {
    pub(super) says: &'static str,
    /// Readings a second of all devices together.
    pub(super) rate: u32,
    pub(super) upstream: Upstream,
    /// The broker is killed when it begins.
    pub(super) kill: bool,
}

pub(super) struct Story {
    length: Duration,
    rate: u32,
    kill: bool,
}

impl Story {
    pub(super) fn new(length: Duration, rate: u32, kill: bool) -> Self {
        Self { length, rate, kill }
    }

    pub(super) fn length(&self) -> Duration {
        self.length
    }

    /// The scene at a time; `None` when it is over.
    pub(super) fn at(&self, time: Duration) -> Option<Scene> {
        let percent = time.as_millis().saturating_mul(100) / self.length.as_millis().max(1);
        let calm = self.rate;
        let burst = self.rate.saturating_mul(10);
        let scene = |says, rate, upstream, kill| Some(Scene { says, rate, upstream, kill });
        match percent {
            0..15 => scene("all is well", calm, Upstream::Quick, false),
            15..30 => {
                scene("the upstream is slow: it takes a quarter of what comes", calm, Upstream::Slow(calm / 4), false)
            }
            30..42 => scene("the upstream is away", calm, Upstream::Away, false),
            42..54 => {
                scene("the upstream is away, and every device sends ten times as much", burst, Upstream::Away, false)
            }
            54..70 => {
                scene("the upstream is back, and takes the backlog at its own pace", calm, Upstream::Slow(burst), false)
            }
            70..100 => scene("kill -9 of the broker; it starts again", calm, Upstream::Slow(burst), self.kill),
            _ => None,
        }
        .map(|scene| if scene.kill || percent < 70 { scene } else { Scene { says: "the backlog drains", ..scene } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_there_once_and_it_ends() {
        let story = Story::new(Duration::from_secs(100), 10, true);
        let scenes: Vec<Scene> = (0..100).filter_map(|s| story.at(Duration::from_secs(s))).collect();
        assert_eq!(scenes.len(), 100);
        assert!(scenes.iter().any(|scene| scene.upstream == Upstream::Away && scene.rate == 100));
        assert!(scenes.iter().any(|scene| scene.kill));
        assert_eq!(story.at(Duration::from_secs(100)), None);
        let quiet = Story::new(Duration::from_secs(100), 10, false);
        assert!((0..100).filter_map(|s| quiet.at(Duration::from_secs(s))).all(|scene| !scene.kill));
    }
}
