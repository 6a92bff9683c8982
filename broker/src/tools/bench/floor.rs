//! The floor: a relay that parses frames and checks nothing. One task a connection, a read buffer for the thread, one lock and
//! one wake for each target and read, one write a flush. What it costs is the least that a broker of this kind can cost.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::wire::{self, Packet};

/// One read.
const BUFFER: usize = 65_536;

#[derive(Default)]
struct Client {
    out: RefCell<Vec<u8>>,
    notify: Notify,
    next: RefCell<u16>,
}

/// Subscribers by filter: a topic, or all topics one level below one.
type Topics = Rc<RefCell<HashMap<Vec<u8>, Vec<Rc<Client>>>>>;

/// Serves on 127.0.0.1 until it is killed.
///
/// # Errors
/// The port is in use.
pub fn run(port: u16) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let topics = Topics::default();
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            tokio::task::spawn_local(serve(socket, topics.clone()));
        }
    })
}

async fn serve(mut socket: TcpStream, topics: Topics) {
    let client = Rc::new(Client::default());
    let (mut buffer, mut kept) = (vec![0; BUFFER], 0);
    loop {
        // A packet that is larger than the buffer.
        if kept == buffer.len() {
            buffer.resize(2 * kept, 0);
        }
        tokio::select! {
            read = socket.read(buffer.get_mut(kept..).unwrap_or_default()) => {
                let Ok(n) = read else { return };
                let used = handle(buffer.get(..kept + n).unwrap_or_default(), &client, &topics);
                let Some(used) = used.filter(|_| n > 0) else { return };
                buffer.copy_within(used..kept + n, 0);
                kept = kept + n - used;
            }
            () = client.notify.notified() => {}
        }
        let out = std::mem::take(&mut *client.out.borrow_mut());
        if !out.is_empty() && socket.write_all(&out).await.is_err() {
            return;
        }
    }
}

/// All packets of a read; how many bytes they were. `None`: they are none.
fn handle(bytes: &[u8], client: &Rc<Client>, topics: &Topics) -> Option<usize> {
    let mut at = 0;
    let mut woken: Vec<Rc<Client>> = Vec::new();
    while let Some(packet) = wire::packet(bytes.get(at..)?).ok()? {
        let id = || packet.body.first_chunk::<2>().map(|id| u16::from_be_bytes(*id));
        match packet.first >> 4 {
            1 => client.out.borrow_mut().extend_from_slice(&[0x20, 2, 0, 0]),
            3 => publish(&packet, bytes.get(at..at + packet.len)?, client, topics, &mut woken)?,
            5 => wire::ack(&mut client.out.borrow_mut(), 0x62, id()?),
            6 => wire::ack(&mut client.out.borrow_mut(), 0x70, id()?),
            8 => {
                let (&[high, low, _, _], filter) = packet.body.split_first_chunk::<4>()?;
                let (qos, filter) = filter.split_last()?;
                topics.borrow_mut().entry(filter.to_vec()).or_default().push(client.clone());
                client.out.borrow_mut().extend_from_slice(&[0x90, 3, high, low, *qos]);
            }
            _ => {}
        }
        at += packet.len;
    }
    for target in woken {
        target.notify.notify_one();
    }
    Some(at)
}

fn publish(
    packet: &Packet<'_>,
    frame: &[u8],
    client: &Rc<Client>,
    topics: &Topics,
    woken: &mut Vec<Rc<Client>>,
) -> Option<()> {
    let (len, rest) = packet.body.split_first_chunk::<2>()?;
    let (topic, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    let qos = packet.first >> 1 & 3;
    let topics = topics.borrow();
    let targets = topics.get(topic).or_else(|| topics.get(&below(topic)));
    for target in targets.into_iter().flatten() {
        let mut out = target.out.borrow_mut();
        if out.is_empty() {
            woken.push(target.clone());
        }
        let start = out.len();
        out.extend_from_slice(frame);
        if qos > 0 {
            let mut next = target.next.borrow_mut();
            *next = next.wrapping_add(1).max(1);
            let at = start + frame.len() - rest.len();
            out.get_mut(at..at + 2)?.copy_from_slice(&next.to_be_bytes());
        }
    }
    if qos > 0 {
        let id = u16::from_be_bytes(*rest.first_chunk::<2>()?);
        wire::ack(&mut client.out.borrow_mut(), if qos == 1 { 0x40 } else { 0x50 }, id);
    }
    Some(())
}

/// The filter with a `+` for the last level.
fn below(topic: &[u8]) -> Vec<u8> {
    let level = topic.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    [topic.get(..level).unwrap_or_default(), b"+"].concat()
}
