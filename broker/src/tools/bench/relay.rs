//! The floor: a relay that parses frames and checks nothing. One task a connection, a read buffer for the thread, one lock and
//! one wake for each target and read, one write a flush.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::wire;

#[derive(Default)]
struct Client {
    out: RefCell<Vec<u8>>,
    notify: Notify,
    next: RefCell<u16>,
}

type Topics = Rc<RefCell<HashMap<Vec<u8>, Vec<Rc<Client>>>>>;

/// Serves until it is killed.
pub fn run(port: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let topics = Topics::default();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            tokio::task::spawn_local(serve(socket, topics.clone()));
        }
    });
}

async fn serve(mut socket: TcpStream, topics: Topics) {
    let client = Rc::new(Client::default());
    let (mut buffer, mut kept) = (vec![0; 65_536], 0);
    loop {
        tokio::select! {
            read = socket.read(&mut buffer[kept..]) => {
                let Ok(n) = read else { return };
                if n == 0 {
                    return;
                }
                let filled = kept + n;
                let used = handle(&buffer[..filled], &client, &topics);
                buffer.copy_within(used..filled, 0);
                kept = filled - used;
            }
            () = client.notify.notified() => {}
        }
        let out = std::mem::take(&mut *client.out.borrow_mut());
        if !out.is_empty() && socket.write_all(&out).await.is_err() {
            return;
        }
    }
}

fn handle(bytes: &[u8], client: &Rc<Client>, topics: &Topics) -> usize {
    let mut at = 0;
    let mut woken: Vec<Rc<Client>> = Vec::new();
    while let Some((first, body, len)) = wire::packet(&bytes[at..]) {
        match first >> 4 {
            1 => client.out.borrow_mut().extend_from_slice(&[0x20, 2, 0, 0]),
            3 => publish(first, body, &bytes[at..at + len], client, topics, &mut woken),
            5 => wire::ack(&mut client.out.borrow_mut(), 0x62, [body[0], body[1]]),
            6 => wire::ack(&mut client.out.borrow_mut(), 0x70, [body[0], body[1]]),
            8 => {
                let topic = body[4..body.len() - 1].to_vec();
                topics.borrow_mut().entry(topic).or_default().push(client.clone());
                client.out.borrow_mut().extend_from_slice(&[0x90, 3, body[0], body[1], body[body.len() - 1]]);
            }
            _ => {}
        }
        at += len;
    }
    for target in woken {
        target.notify.notify_one();
    }
    at
}

fn publish(first: u8, body: &[u8], frame: &[u8], client: &Rc<Client>, topics: &Topics, woken: &mut Vec<Rc<Client>>) {
    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let qos = first >> 1 & 3;
    if let Some(targets) = topics.borrow().get(&body[2..2 + topic]) {
        for target in targets {
            let mut out = target.out.borrow_mut();
            if out.is_empty() {
                woken.push(target.clone());
            }
            let start = out.len();
            out.extend_from_slice(frame);
            if qos > 0 {
                let mut next = target.next.borrow_mut();
                *next = next.wrapping_add(1).max(1);
                let id = start + frame.len() - body.len() + 2 + topic;
                out[id..id + 2].copy_from_slice(&next.to_be_bytes());
            }
        }
    }
    if qos > 0 {
        let id = [body[2 + topic], body[3 + topic]];
        wire::ack(&mut client.out.borrow_mut(), if qos == 1 { 0x40 } else { 0x50 }, id);
    }
}
