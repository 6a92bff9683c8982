//! What was seen, held against an ACL file that is not in force.

use super::Seen;
use crate::access::AclFile;
use crate::access::acl::Answer;

/// What another file would answer.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// The other way round than it was, sorted by client.
    pub(crate) changed: Vec<Changed>,
    /// Held against the file.
    pub(crate) asked: usize,
    /// Answered by a token, an HTTP service or dynamic security: the file is not asked.
    pub(crate) before_the_file: usize,
    /// Of listeners that have a file of their own.
    pub(crate) elsewhere: usize,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) seen: Seen,
    /// What the file says.
    pub(crate) answer: Answer,
}

/// Holds all of it against the file. With a listener's `url`, what came by it; else what the file of `[access]` decides.
pub(crate) fn replay(acl: &AclFile, seen: Vec<Seen>, listener: Option<&str>) -> Replay {
    let mut replay = Replay::default();
    for seen in seen {
        let is_here = listener.map_or(!seen.own_acl, |url| *seen.who.listener == *url);
        if !is_here {
            replay.elsewhere += 1;
        } else if seen.by.is_before_the_file() {
            replay.before_the_file += 1;
        } else {
            replay.asked += 1;
            let answer = acl.check(&seen.who, seen.kind.ask(&seen.topic));
            if answer.allowed != seen.allowed {
                replay.changed.push(Changed { seen, answer });
            }
        }
    }
    let key = |Changed { seen, .. }: &Changed| {
        (seen.who.user.clone(), seen.who.client_id.clone(), seen.kind, seen.topic.clone())
    };
    replay.changed.sort_by_cached_key(key);
    replay
}
