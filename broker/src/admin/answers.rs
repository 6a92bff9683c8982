//! What the API answers.

use crate::observe::schema::answer;
use crate::observe::{BridgePart, Counted, LedgerPart};

answer! {
    /// Why a request was not done.
    Failure {
        /// The reason, and what to do about it.
        error: String,
    }
}

answer! {
    /// A request was done.
    Done {
        /// What was done.
        done: String,
    }
}

answer! {
    /// A page of sessions, sorted by client identifier.
    SessionPage {
        /// How many match, on all pages.
        total: u64,
        /// Those of this page.
        sessions: Vec<SessionRow>,
        /// `after` of the next page; null on the last.
        next: Option<String>,
    }
}

answer! {
    /// A session.
    SessionRow {
        /// The client identifier.
        client_id: String,
        /// Whether its client is connected.
        connected: bool,
        /// The protocol of its last connection: `3.1`, `3.1.1` or `5`.
        protocol: String,
        /// Milliseconds since its client went away; null while it is connected.
        away_ms: Option<u64>,
        /// Milliseconds until the session ends if its client stays away; null while it is connected, or for never.
        ends_in_ms: Option<u64>,
        /// How many subscriptions it has.
        subscriptions: u64,
        /// Messages in its queue.
        queued_messages: u64,
        /// Bytes of those.
        queued_bytes: u64,
        /// Messages that were sent and are not acknowledged.
        in_flight: u64,
        /// How long its oldest message has waited; null when there is none, or when that is not known.
        oldest_ms: Option<u64>,
        /// Its queue refuses more.
        full: bool,
    }
}

answer! {
    /// Everything of one session.
    SessionDetail {
        /// The session.
        session: SessionRow,
        /// Its subscriptions.
        subscriptions: Vec<SubscriptionRow>,
        /// What became of its messages.
        ledger: LedgerPart,
        /// Why what is in its queue is not gone.
        waits: String,
    }
}

answer! {
    /// A page of subscriptions, sorted by client identifier, then by filter.
    SubscriptionPage {
        /// How many match, on all pages.
        total: u64,
        /// Those of this page.
        subscriptions: Vec<SubscriptionRow>,
        /// `after` of the next page; null on the last.
        next: Option<String>,
    }
}

answer! {
    /// A subscription.
    SubscriptionRow {
        /// Whose.
        client_id: String,
        /// The topic filter.
        filter: String,
        /// The highest quality of service.
        qos: u64,
        /// The client's own messages are not sent back to it.
        no_local: bool,
        /// The retain flag is kept as it was published.
        retain_as_published: bool,
        /// The subscription identifier; null for none.
        subscription_id: Option<u64>,
    }
}

answer! {
    /// The queues with the most messages.
    QueueList {
        /// Queues that are not empty.
        total: u64,
        /// The longest first.
        queues: Vec<SessionRow>,
    }
}

answer! {
    /// Bridges.
    BridgeList {
        /// In the order of the configuration.
        bridges: Vec<BridgePart>,
    }
}

answer! {
    /// Declared queues, and their dead letters.
    DeclaredList {
        /// Each queue, and behind it the one of its dead letters.
        queues: Vec<DeclaredRow>,
    }
}

answer! {
    /// A declared queue.
    DeclaredRow {
        /// Its name.
        name: String,
        /// It holds the dead letters of the queue of this name.
        dead_letters: bool,
        /// Messages in it, those in flight among them.
        messages: u64,
        /// Bytes of those.
        bytes: u64,
        /// Sessions that consume from it.
        consumers: u64,
        /// Those of them that are connected.
        connected: u64,
        /// Messages that consumers have and have not acknowledged.
        in_flight: u64,
        /// Messages that are set aside after a refusal, or because no consumer may read them.
        aside: u64,
        /// Messages that no consumer who is connected may read.
        not_allowed: u64,
    }
}

answer! {
    /// Messages that wait for their time.
    DelayedPage {
        /// How many there are, on all pages.
        total: u64,
        /// Those of this page, in the order in which they are sent; those that wait by the broker's own clock first.
        delayed: Vec<DelayedRow>,
        /// `after` of the next page; null on the last.
        next: Option<String>,
    }
}

answer! {
    /// A message that waits for its time.
    DelayedRow {
        /// Its name, for cancelling and moving it.
        key: String,
        /// The topic on which it is published then.
        topic: String,
        /// The quality of service at which it was published.
        qos: u64,
        /// Bytes of its payload.
        payload_bytes: u64,
        /// When it is due; 0 when it is.
        due_in_ms: u64,
        /// By the wall clock; else by the broker's own, which no step of the wall clock moves.
        by_wall_clock: bool,
    }
}

answer! {
    /// What lies in a queue.
    QueuePeek {
        /// How many messages are in it.
        total: u64,
        /// The first of them, in the order in which they are sent.
        messages: Vec<QueuedMessage>,
    }
}

answer! {
    /// A message in a queue.
    QueuedMessage {
        /// Its place: ascending, never given twice.
        place: u64,
        /// The topic name.
        topic: String,
        /// The quality of service of this delivery.
        qos: u64,
        /// The retain flag of this delivery.
        retain: bool,
        /// How long it has waited.
        age_ms: u64,
        /// When it expires; null for never.
        expires_in_ms: Option<u64>,
        /// Its bytes: topic, properties, payload.
        bytes: u64,
        /// The payload when it is text, cut after 4,096 bytes; else null.
        text: Option<String>,
        /// The payload in base64 when it is no text, cut likewise; else null.
        base64: Option<String>,
    }
}

answer! {
    /// A page of retained messages, sorted by topic.
    RetainedPage {
        /// How many match, on all pages.
        total: u64,
        /// Those of this page.
        retained: Vec<RetainedRow>,
        /// `after` of the next page; null on the last.
        next: Option<String>,
    }
}

answer! {
    /// A retained message, without its payload.
    RetainedRow {
        /// The topic name.
        topic: String,
        /// The quality of service at which it was published.
        qos: u64,
        /// Bytes of its payload.
        payload_bytes: u64,
        /// How long ago it was published.
        age_ms: u64,
        /// When it expires; null for never.
        expires_in_ms: Option<u64>,
    }
}

answer! {
    /// A retained message.
    RetainedMessage {
        /// What is known of it.
        message: RetainedRow,
        /// The payload when it is text; else null.
        text: Option<String>,
        /// The payload in base64 when it is no text; else null.
        base64: Option<String>,
    }
}

answer! {
    /// Sessions that messages were dropped from, those that lost most first.
    DropList {
        /// All queues together, those that have ended included.
        all: LedgerPart,
        /// The sessions.
        sessions: Vec<SessionDrops>,
    }
}

answer! {
    /// What became of one session's messages.
    SessionDrops {
        /// The client identifier.
        client_id: String,
        /// Its ledger.
        ledger: LedgerPart,
    }
}

answer! {
    /// The store.
    StoreAnswer {
        /// It cannot be written: durable messages are refused.
        failing: bool,
        /// Commits since the start.
        commits: u64,
        /// Commits that failed.
        failures: u64,
        /// Microseconds within which half of all commits were done.
        commit_p50_us: u64,
        /// Microseconds within which 99 of 100 commits were done.
        commit_p99_us: u64,
        /// How long commits took.
        commit_times: Counted,
        /// Bytes of messages written since the start.
        message_bytes: u64,
        /// Bytes that the process caused to be written to storage since the start.
        storage_written_bytes: u64,
        /// What queues and retained messages take in the file.
        live_bytes: u64,
        /// Room on the disk and inside the file.
        room_bytes: u64,
        /// Rows that could not be read since the start.
        damaged_rows: u64,
        /// Bytes given to the device for the journal since the start.
        journal_written_bytes: u64,
        /// Bytes given to the device for the store's file since the start.
        file_written_bytes: u64,
        /// Both, for each 1,000 bytes of messages written.
        device_bytes_per_kilobyte: u64,
        /// Microseconds that a commit waits for company at the moment.
        gather_us: u64,
        /// Bytes that the device may be written in a year (`store.wear`); 0 for as many as it takes.
        wear_bytes_per_year: u64,
        /// More was written than that.
        wear_over: bool,
    }
}

answer! {
    /// The log.
    LogAnswer {
        /// How much goes to it: `error`, `warn`, `info`, `debug` or `trace`.
        level: String,
        /// Lines that nobody could read.
        lines_lost: u64,
        /// Lines left out because there were too many in a second.
        lines_left_out: u64,
        /// The client whose packets are in it.
        client: Option<String>,
        /// For so many seconds still.
        client_for_s: Option<u64>,
    }
}

answer! {
    /// The journal.
    JournalAnswer {
        /// Bytes of its file; 0 when there is none.
        bytes: u64,
        /// Bytes of records that the store's file does not contain yet, delivered ones included.
        pending_bytes: u64,
        /// The last record's number.
        last_record: u64,
        /// The last record that the store's file contains.
        folded_record: u64,
        /// How often it was folded since the start.
        folds: u64,
        /// Bytes given to the device for it since the start.
        written_bytes: u64,
    }
}

answer! {
    /// The journal was folded.
    FoldAnswer {
        /// Records that the store's file did not contain before.
        records: u64,
        /// Their bytes.
        bytes: u64,
        /// Milliseconds that it took.
        took_ms: u64,
    }
}

answer! {
    /// The store's file was compacted.
    CompactAnswer {
        /// Bytes that it took on the disk before.
        before: u64,
        /// Bytes that it takes now.
        after: u64,
        /// Milliseconds that it took.
        took_ms: u64,
    }
}

answer! {
    /// A copy of the store.
    BackupAnswer {
        /// The file.
        file: String,
        /// Its length.
        bytes: u64,
        /// Rows that are not what was written: the copy has them as they are, and a start on it removes them. The log names them.
        damaged_rows: u64,
        /// Milliseconds that it took.
        took_ms: u64,
    }
}

answer! {
    /// Why a message on a topic reaches a client, or does not.
    Why {
        /// The client identifier.
        client_id: String,
        /// The topic name.
        topic: String,
        /// Whether a message that is published now would be sent to the client at once.
        reaches: bool,
        /// What speaks for it and against it, the decisive one first.
        reasons: Vec<String>,
    }
}

answer! {
    /// Who decides who may do what.
    AccessAnswer {
        /// Whether `[access]` names anything; otherwise everybody may do everything.
        configured: bool,
        /// Grows with each change of the rules.
        version: u64,
        /// Users of the password file.
        users: u64,
        /// Users made while the broker runs.
        dynamic_users: u64,
        /// Rules of all ACL files.
        rules: u64,
        /// Addresses that are banned.
        banned: u64,
    }
}

answer! {
    /// What the rules that are in force say of a client.
    AclAnswer {
        /// Whether it may.
        allowed: bool,
        /// The file and the line that say so, `dynamic security`, or that nothing does.
        by: String,
        /// The version of the rules.
        version: u64,
    }
}

answer! {
    /// What clients did lately.
    RecentPage {
        /// How many entries there are, on all pages.
        total: u64,
        /// Those of this page, sorted by client identifier.
        recent: Vec<RecentRow>,
        /// `after` of the next page; null on the last.
        next: Option<String>,
        /// Bytes that may be taken; 0: nothing is kept.
        limit_bytes: u64,
        /// Bytes that are taken.
        bytes: u64,
        /// Entries that made room for others since the start.
        forgotten: u64,
    }
}

answer! {
    /// What a client did, once or more often.
    RecentRow {
        /// Its user name; null for a client without one.
        user: Option<String>,
        /// Its client identifier.
        client_id: String,
        /// The groups that its source named.
        groups: Vec<String>,
        /// The certificate that it showed.
        certificate: Option<CertificateRow>,
        /// Where it came from.
        address: Option<String>,
        /// The `url` of the listener that it came by.
        listener: String,
        /// Whether that listener has an ACL file of its own.
        own_acl: bool,
        /// `connect`, `publish`, `will`, `subscribe` or `receive`.
        action: String,
        /// The topic name, or the topic filter; empty for `connect`.
        topic: String,
        /// Of what is published.
        qos: Option<u64>,
        /// Of what is published.
        retain: Option<bool>,
        /// Whether it might, the last time.
        allowed: bool,
        /// Who said so: `source` (a token, an HTTP service), `dynamic` (dynamic security), `acl`, or `nobody`.
        by: String,
        /// How often it was decided. A message that comes to a client is decided with its route, not one by one.
        count: u64,
        /// How long ago the last time was, in seconds.
        ago_s: u64,
    }
}

answer! {
    /// What rules may ask of a certificate.
    CertificateRow {
        /// The subject's common name.
        cn: Option<String>,
        /// The whole subject.
        subject: String,
        /// The first DNS name.
        dns: Option<String>,
        /// The first URI.
        uri: Option<String>,
        /// The first e-mail address.
        email: Option<String>,
        /// The serial number.
        serial: String,
        /// SHA-256 of the certificate.
        fingerprint: String,
    }
}

answer! {
    /// Addresses that are banned.
    BanList {
        /// The addresses.
        bans: Vec<BanRow>,
    }
}

answer! {
    /// A ban.
    BanRow {
        /// The address; of IPv6 the first one of a /64.
        address: String,
        /// Seconds until it ends.
        left_s: u64,
    }
}

answer! {
    /// The files of `[access]` were read.
    Changes {
        /// What is different, a line for each.
        changes: Vec<String>,
    }
}
