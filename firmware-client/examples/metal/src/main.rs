//! A device that measures, buffers and reports: an interrupt takes readings, the outbox keeps them while the broker is
//! away, and the main loop sends them over TCP. It runs in QEMU:
//!
//! ```text
//! cargo build --release --target thumbv7m-none-eabi
//! qemu-system-arm -M lm3s6965evb -nographic -nic user,model=stellaris \
//!     -semihosting-config enable=on,target=native,arg=port=1883,arg=count=100 \
//!     -kernel target/thumbv7m-none-eabi/release/forebay-firmware-metal
//! ```
//!
//! It publishes numbered readings on `metal/1` with QoS 1 and on `metal/2` with QoS 2, prints the commands that come on
//! `metal/command/…`, and ends when it has published everything and a message has come on `metal/end`; its last
//! message, on `metal/report`, is its own account.
//!
//! `arg=alarm=10` makes each tenth reading an alarm, which goes before the others; what else it may be told is in `task.rs`.
//!
//! With the feature `tls` it speaks TLS 1.3 (see `tls.rs` for what is checked): `arg=ca=FILE` is the certificate to
//! trust, as DER, and `arg=name=NAME` the broker's name.
#![no_std]
#![no_main]

mod clock;
mod host;
mod mac;
mod net;
mod sensor;
mod stack;
mod task;
mod text;
#[cfg(feature = "tls")]
mod tls;

use cortex_m_semihosting::hprintln;
use embedded_io::{Read, ReadReady, Write};
use forebay_firmware::adapter::blocking::{Connection, Ended};
use forebay_firmware::mailbox::{Mailbox, Receiver};
use forebay_firmware::{
    Class, Client, DropReason, Event, Input, Ladder, Message, Options, Policy, Protocol, QoS, Received, Status, Ticket,
};
use static_cell::ConstStaticCell;
use task::Task;
use text::{Text, Topic};

/// What the application gives the client; none of it is ever on the stack.
static OUTBOX: ConstStaticCell<[u8; OUTBOX_MAX]> = ConstStaticCell::new([0; OUTBOX_MAX]);
static RECEIVE: ConstStaticCell<[u8; RECEIVE_MAX]> = ConstStaticCell::new([0; RECEIVE_MAX]);
static MAILBOX: ConstStaticCell<Mailbox<4_096>> = ConstStaticCell::new(Mailbox::new());
static OPTIONS: ConstStaticCell<Options<'static>> = ConstStaticCell::new(Options::new(""));
static NET: ConstStaticCell<net::Memory> = ConstStaticCell::new(net::Memory::new());
#[cfg(feature = "tls")]
static TLS: ConstStaticCell<tls::Memory> = ConstStaticCell::new(tls::Memory::new());
static LINE: ConstStaticCell<[u8; host::LINE_MAX]> = ConstStaticCell::new([0; host::LINE_MAX]);
/// The largest outbox. TLS has its records where there could be more of it.
const OUTBOX_MAX: usize = if cfg!(feature = "tls") { 8_192 } else { 28_672 };
/// The largest packet that it takes.
const RECEIVE_MAX: usize = 512;

/// The device.
struct Device {
    task: Task,
    client: Client<'static>,
    input: Input<'static>,
    mail: Receiver<'static>,
    connections: u32,
    /// Alarms that the outbox was given.
    alarms: u32,
    /// The sensor has taken its last reading.
    all_taken: bool,
    /// Nobody wants anything of it any more.
    ended: bool,
    report: Option<Ticket>,
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let task = Task::parse(host::command_line(LINE.take()));
    let (Some(peripherals), Some(mut device)) = (cortex_m::Peripherals::take(), Device::new(task)) else {
        host::exit(false)
    };
    clock::start(peripherals.SYST);
    let mut net = net::Net::start(NET.take(), host::time());
    #[cfg(feature = "tls")]
    let mut tls = tls::Tls::start(TLS.take(), &task);
    while !device.has_reported() {
        device.wait_for_turn();
        match net.connect(task.port) {
            #[cfg(not(feature = "tls"))]
            Ok(stream) => device.serve(stream).map_or((), net::Stream::close),
            #[cfg(feature = "tls")]
            Ok(stream) => match tls.open(stream) {
                Ok(secured) => device.serve(secured).map_or((), tls::Secured::close),
                Err(why) => {
                    hprintln!("no TLS: {:?}", why);
                    device.client.disconnected(clock::now());
                }
            },
            Err(_) => device.client.disconnected(clock::now()),
        }
    }
    hprintln!("stack {} of {}", stack::used(), stack::size());
    host::exit(true)
}

impl Device {
    /// Its memory exists once.
    fn new(task: Task) -> Option<Self> {
        let options = OPTIONS.take();
        options.client_id = task.id;
        options.protocol = if task.v5 { Protocol::V5 } else { Protocol::V311 };
        options.keep_alive_s = 10;
        options.maximum_packet_size = RECEIVE_MAX as u32;
        options.session_expiry_s = 3_600;
        options.response_timeout_ms = task.patience_ms;
        options.in_flight_max = task.window;
        options.network = Ladder { base_ms: 100, cap_ms: 500 };
        options.seed = host::time();
        // The account is given even when the readings fill everything.
        options.reserve = [0, 256, 0, 0];
        options.subscription_reserve = 128;
        let mut client = Client::new(options, OUTBOX.take().get_mut(..task.outbox)?);
        for (level, qos) in
            [("command/1", QoS::AtLeastOnce), ("command/2", QoS::ExactlyOnce), ("end", QoS::ExactlyOnce)]
        {
            client.subscribe(Topic::join(task.id, level).as_str(), qos).ok()?;
        }
        let (sender, mail) = MAILBOX.take().split();
        sensor::install(sender, task);
        Some(Self {
            task,
            client,
            input: Input::new(RECEIVE.take()),
            mail,
            connections: 0,
            alarms: 0,
            all_taken: false,
            ended: false,
            report: None,
        })
    }

    /// Waits until it is time to connect.
    fn wait_for_turn(&mut self) {
        while self.client.connect_at().is_some_and(|at| at > clock::now()) {
            self.work();
            clock::sleep();
        }
    }

    /// What there is to do, with a connection or without.
    fn work(&mut self) {
        let now = clock::now();
        // Asked before the mail is taken: what it counts is in the mail.
        let taken = sensor::taken();
        self.client.take_mail(now, &mut self.mail);
        if now > self.task.life_ms {
            hprintln!("gave up: {:?}", self.client.counters());
            host::exit(false);
        }
        let alarms = taken.checked_div(self.task.alarm).unwrap_or(0);
        if alarms != self.alarms {
            self.alarms = alarms;
            hprintln!("alarms {}", alarms);
        }
        if taken == self.task.count && !self.all_taken {
            self.all_taken = true;
            hprintln!("all taken");
        }
        if self.report.is_none() && self.ended && self.all_taken && self.client.is_drained() {
            self.report = self.publish_report();
        }
    }

    /// Uses a connection until it is over. When it was ended in an orderly way, there is something left to close.
    fn serve<T: Read + ReadReady + Write>(&mut self, transport: T) -> Option<T> {
        self.connections += 1;
        let mut connection: Connection<T> =
            Connection::open(transport, clock::now(), &mut self.client, &mut self.input);
        loop {
            self.work();
            // The server has nothing left for it then.
            if self.has_reported() && !self.client.is_receiving() {
                self.client.disconnect(clock::now());
            }
            let (mut ended, task) = (self.ended, self.task);
            let turn = connection.run_once(clock::now(), &mut self.client, &mut self.input, |_, event| match event {
                Event::Message(message) => ended |= obey(&task, &message),
                Event::Connected { session, .. } => hprintln!("connected {:?}", session),
                _ => {}
            });
            self.ended = ended;
            match turn {
                Ok(true) => {}
                Ok(false) => clock::sleep(),
                Err(Ended::Closed) => return Some(connection.into_transport()),
                Err(why) => {
                    hprintln!("disconnected {:?}", why);
                    return None;
                }
            }
        }
    }

    fn has_reported(&self) -> bool {
        self.report.is_some_and(|report| self.client.status(report) == Status::Done)
    }

    /// What was taken, what became of it, and how often it had to connect.
    fn publish_report(&mut self) -> Option<Ticket> {
        let counters = *self.client.counters();
        let mut text = Text::<128>::new();
        let _ = core::fmt::write(
            &mut text,
            format_args!(
                "taken={} accepted={} acknowledged={} evicted={} full={} mailbox={} dropped={} connections={}",
                sensor::taken(),
                counters.accepted,
                counters.acknowledged,
                counters.dropped(DropReason::Evicted),
                counters.dropped(DropReason::Full),
                counters.dropped(DropReason::Mailbox),
                counters.dropped_with_ticket(),
                self.connections,
            ),
        );
        let topic = Topic::join(self.task.id, "report");
        let message = Message::new(topic.as_str()).class(Class::State).policy(Policy::DropNewest);
        self.client.publish(clock::now(), &message, text.as_str().as_bytes()).ok()
    }
}

/// Prints a command. Whether it is the last.
fn obey(task: &Task, message: &Received<'_>) -> bool {
    let topic = message.topic.strip_prefix(task.id).unwrap_or(message.topic);
    hprintln!("{} {}", topic, core::str::from_utf8(message.payload).unwrap_or("?"));
    topic == "/end"
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hprintln!("{}", info);
    host::exit(false)
}
