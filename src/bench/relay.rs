//! A relay in front of a daemon: counts the bytes of both directions, and delays them as a long line does.
//!
//! What is put in comes out in its order, each piece `delay` after it came, however much is under way (up to a bound that no
//! scenario here reaches): so it adds latency, and takes little of the bandwidth. Nothing waits for an acknowledgement: both its
//! sockets have TCP_NODELAY, and acknowledge at once (TCP_QUICKACK).
//!
//! A TCP handshake over a long line takes a round trip before the client may speak, and half of one more until the server
//! hears of it; here the kernel connects at once, so the relay holds everything back for that long.
//!
//! Left out: losses, and a line that gets full.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::sys::clock;

/// Bytes of one read.
const PIECE: usize = 64 * 1024;

/// Pieces under way in one direction of one connection: 32 MiB, more than 1 GB/s needs for 25 ms.
const PIECES_MAX: usize = 512;

/// A relay on a port of loopback. When it is dropped, its connections are cut and its threads have ended.
#[derive(Debug)]
pub(super) struct Relay {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    to: u16,
    delay: Duration,
    there: AtomicU64,
    back: AtomicU64,
    stop: AtomicBool,
    /// For the end: both sockets of the connections that live, and their threads.
    connections: Mutex<Vec<Connection>>,
}

#[derive(Debug)]
struct Connection {
    sockets: [TcpStream; 2],
    threads: Vec<JoinHandle<()>>,
}

/// Bytes that went through, without the headers of TCP and IP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Carried {
    /// From the client to the daemon.
    pub(super) there: u64,
    /// From the daemon to the client.
    pub(super) back: u64,
}

impl Carried {
    /// In both directions.
    pub(super) fn all(self) -> u64 {
        self.there + self.back
    }

    /// What was added since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self { there: self.there - before.there, back: self.back - before.back }
    }
}

impl Relay {
    /// Listens in front of the port `to`. Each direction is late by `delay`.
    pub(super) fn start(to: u16, delay: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            to,
            delay,
            there: AtomicU64::new(0),
            back: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            connections: Mutex::new(Vec::new()),
        });
        let ours = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("bench-relay".into()).spawn(move || listen(&listener, &ours))?;
        Ok(Self { port, shared, thread: Some(thread) })
    }

    /// The port that it listens on.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What went through so far.
    pub(super) fn carried(&self) -> Carried {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Carried { there: read(&self.shared.there), back: read(&self.shared.back) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Wakes the listener.
        let _refused_when_it_has_ended = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
        for connection in std::mem::take(&mut *self.shared.connections.lock()) {
            for socket in &connection.sockets {
                let _closed_already = socket.shutdown(Shutdown::Both);
            }
            for thread in connection.threads {
                let _panicked = thread.join();
            }
        }
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((client, _)) = listener.accept() {
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        // A connection that cannot be made is one that is closed at once: the client sees that.
        if let Ok(connection) = connect(client, shared) {
            let mut connections = shared.connections.lock();
            connections.retain(|connection| connection.threads.iter().any(|thread| !thread.is_finished()));
            connections.push(connection);
        }
    }
}

/// A piece of the stream, and when it is due at the other end. An empty one is the end.
type Piece = (Instant, Vec<u8>);

fn connect(client: TcpStream, shared: &Arc<Shared>) -> io::Result<Connection> {
    // Until then the server would not have heard of the client, nor the client's first bytes.
    let heard = clock::now() + shared.delay * 3;
    let daemon = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.to))?;
    let mut threads = Vec::with_capacity(4);
    // The daemon speaks at once; what it says at first would not be on its way before `heard`.
    for (name, from, to, first, is_there) in
        [("there", &client, &daemon, heard, true), ("back", &daemon, &client, heard + shared.delay, false)]
    {
        from.set_nodelay(true)?;
        let (give, take) = sync_channel(PIECES_MAX);
        let (from, to, shared) = (from.try_clone()?, to.try_clone()?, Arc::clone(shared));
        threads.push(
            std::thread::Builder::new()
                .name(format!("relay-in-{name}"))
                .spawn(move || read(from, &give, first, is_there, &shared))?,
        );
        threads.push(std::thread::Builder::new().name(format!("relay-out-{name}")).spawn(move || write(to, &take))?);
    }
    Ok(Connection { sockets: [client, daemon], threads })
}

fn read(mut from: TcpStream, give: &SyncSender<Piece>, first: Instant, is_there: bool, shared: &Shared) {
    let counter = if is_there { &shared.there } else { &shared.back };
    let mut buffer = vec![0; PIECE];
    loop {
        // The kernel forgets it after a while (tcp(7)).
        let _only_slower = rustix::net::sockopt::set_tcp_quickack(&from, true);
        let count = match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
            Ok(count) => count,
        };
        counter.fetch_add(count as u64, Ordering::Relaxed);
        let due = (clock::now() + shared.delay).max(if shared.delay.is_zero() { clock::now() } else { first });
        if give.send((due, buffer[..count].to_vec())).is_err() || count == 0 {
            return;
        }
    }
}

fn write(mut to: TcpStream, take: &Receiver<Piece>) {
    while let Ok((due, piece)) = take.recv() {
        loop {
            let left = due.saturating_duration_since(clock::now());
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
        if piece.is_empty() || to.write_all(&piece).is_err() {
            break;
        }
    }
    // Its reader takes nothing more that it could not get rid of.
    let _closed_already = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Echoes one connection, then ends.
    fn echo() -> (u16, JoinHandle<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = vec![0; 100_000];
            loop {
                match stream.read(&mut buffer).unwrap() {
                    0 => return,
                    count => stream.write_all(&buffer[..count]).unwrap(),
                }
            }
        });
        (port, thread)
    }

    #[test]
    fn bytes_come_in_order_late_and_are_counted_and_so_does_the_end() {
        let delay = Duration::from_millis(20);
        let (port, thread) = echo();
        let relay = Relay::start(port, delay).unwrap();
        let began = clock::now();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).unwrap();
        let sent: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
        let mut writer = stream.try_clone().unwrap();
        let text = sent.clone();
        let writing = std::thread::spawn(move || {
            for part in text.chunks(777) {
                writer.write_all(part).unwrap();
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut first = [0; 1];
        stream.read_exact(&mut first).unwrap();
        // A round trip and a half of a handshake, and half a one back.
        assert!(began.elapsed() >= delay * 4, "{:?}", began.elapsed());
        let mut got = first.to_vec();
        stream.read_to_end(&mut got).unwrap();
        writing.join().unwrap();
        thread.join().unwrap();
        assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
        assert_eq!(relay.carried(), Carried { there: 300_000, back: 300_000 });
        // Pieces are under way together: one after the other they would take 300_000 / 777 times the delay.
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }

    #[test]
    fn an_established_connection_takes_one_round_trip_for_an_answer() {
        let delay = Duration::from_millis(10);
        let (port, thread) = echo();
        let relay = Relay::start(port, delay).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut answer = [0; 2];
        let mut ask = || {
            let began = clock::now();
            stream.write_all(b"hi").unwrap();
            stream.read_exact(&mut answer).unwrap();
            began.elapsed()
        };
        ask();
        let round_trips: Vec<_> = (0..10).map(|_| ask()).collect();
        assert!(round_trips.iter().all(|took| *took >= delay * 2), "{round_trips:?}");
        // Nagle and delayed acknowledgements would add 40 ms to each.
        let best = round_trips.iter().min().unwrap();
        assert!(*best < delay * 2 + Duration::from_millis(15), "{round_trips:?}");
        drop(stream);
        thread.join().unwrap();
    }

    #[test]
    fn the_end_of_the_relay_cuts_what_it_carries() {
        let (port, thread) = echo();
        let relay = Relay::start(port, Duration::ZERO).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
        drop(relay);
        assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
        thread.join().unwrap();
    }

    #[test]
    fn a_daemon_that_is_away_ends_the_connection() {
        let relay = Relay::start(crate::lab::free_port().unwrap(), Duration::ZERO).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).unwrap();
        assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
}
