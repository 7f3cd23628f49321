//! A link of the loopback network: forwards TCP connections and can be cut.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::{Context, Result};

/// What a link does with what comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Passes it on.
    Open,
    /// Keeps it: connections stay, nothing gets through, like a cable that is not plugged in.
    Stalled,
    /// Breaks connections, and new ones as soon as they are there.
    Broken,
    Gone,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes that have been passed on, in both directions.
    passed: AtomicU64,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// Break everything when so many bytes have been passed on.
    break_at: Option<u64>,
    streams: Vec<TcpStream>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while stalled; whether to go on.
    fn may_pass(&self) -> bool {
        let mut state = self.state();
        while state.mode == Mode::Stalled {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.mode == Mode::Open
    }

    fn set(&self, mode: Mode) {
        let mut state = self.state();
        state.mode = mode;
        if mode != Mode::Stalled && mode != Mode::Open {
            for stream in state.streams.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.changed.notify_all();
    }
}

/// Forwards connections from one address to another.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// How long a thread looks at a connection before it asks whether to end.
const TURN: Duration = Duration::from_millis(50);

impl Proxy {
    /// Listens at `at` and passes what comes on to `to`, as if it came from the address `from`.
    ///
    /// # Errors
    /// When the address cannot be listened at.
    pub fn new(at: SocketAddr, from: IpAddr, to: SocketAddr) -> Result<Proxy> {
        let listener = TcpListener::bind(at).context(format!("cannot listen at {at}"))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                mode: Mode::Open,
                break_at: None,
                streams: Vec::new(),
            }),
            changed: Condvar::new(),
            passed: AtomicU64::new(0),
        });
        let ours = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || accept(&listener, from, to, &ours))
            .context("cannot start a thread")?;
        Ok(Proxy {
            shared,
            thread: Some(thread),
        })
    }

    /// Lets nothing through any more, without breaking connections.
    pub fn stall(&self) {
        self.shared.set(Mode::Stalled);
    }

    /// Breaks every connection and each new one.
    pub fn cut(&self) {
        self.shared.set(Mode::Broken);
    }

    /// Breaks every connection, once, when so many more bytes have passed: in the middle of whatever
    /// they are.
    pub fn break_after(&self, bytes: u64) {
        let at = self.passed().saturating_add(bytes);
        self.shared.state().break_at = Some(at);
    }

    /// Everything gets through again.
    pub fn restore(&self) {
        self.shared.set(Mode::Open);
    }

    /// Bytes that have passed so far, in both directions.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.set(Mode::Gone);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, from: IpAddr, to: SocketAddr, shared: &Arc<Shared>) {
    loop {
        let mode = shared.state().mode;
        match mode {
            Mode::Gone => return,
            Mode::Stalled => {
                std::thread::sleep(TURN);
                continue;
            }
            Mode::Open | Mode::Broken => {}
        }
        match listener.accept() {
            Ok((near, _)) if mode == Mode::Open => {
                let shared = Arc::clone(shared);
                std::thread::spawn(move || {
                    // A failure closes the near side: that is what the peer learns of it.
                    if let Ok(far) = connect(from, to) {
                        pump(&near, &far, &shared);
                    }
                });
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(TURN / 10),
        }
    }
}

fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(2))?;
    Ok(socket.into())
}

/// Passes on in both directions until one side ends or the link breaks.
fn pump(near: &TcpStream, far: &TcpStream, shared: &Arc<Shared>) {
    let set_up = || -> std::io::Result<[TcpStream; 4]> {
        near.set_nonblocking(false)?;
        for stream in [near, far] {
            stream.set_nodelay(true)?;
        }
        Ok([
            near.try_clone()?,
            far.try_clone()?,
            near.try_clone()?,
            far.try_clone()?,
        ])
    };
    let Ok([a, b, keep_a, keep_b]) = set_up() else {
        return;
    };
    {
        let mut state = shared.state();
        if state.mode != Mode::Open {
            return;
        }
        state.streams.extend([keep_a, keep_b]);
    }
    let other = Arc::clone(shared);
    let back = std::thread::spawn(move || one_way(&b, &a, &other));
    one_way(near, far, shared);
    let _ = back.join();
    // Do not collect descriptors of connections that are over.
    let addresses = |s: &TcpStream| s.peer_addr().ok();
    let ended = [addresses(near), addresses(far)];
    shared
        .state()
        .streams
        .retain(|s| s.peer_addr().is_ok_and(|p| !ended.contains(&Some(p))));
}

fn one_way(mut from: &TcpStream, mut to: &TcpStream, shared: &Shared) {
    let mut buffer = vec![0; 128 << 10];
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        if !shared.may_pass() {
            break;
        }
        let before = shared.passed.fetch_add(len as u64, Ordering::Relaxed);
        let mut rest = buffer.get(..len).unwrap_or(&[]);
        let break_at = shared.state().break_at;
        if let Some(at) = break_at.filter(|at| *at <= before.saturating_add(len as u64)) {
            let keep = usize::try_from(at.saturating_sub(before)).unwrap_or(len);
            rest = rest.get(..keep.min(len)).unwrap_or(rest);
            let _ = to.write_all(rest);
            let mut state = shared.state();
            state.break_at = None;
            for stream in state.streams.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
            break;
        }
        if to.write_all(rest).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(at: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(at).unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut b = [0; 64];
                    let (mut reader, mut writer) = (&stream, &stream);
                    while let Ok(n @ 1..) = reader.read(&mut b) {
                        writer.write_all(&b[..n]).unwrap();
                    }
                });
            }
        });
        at
    }

    #[test]
    fn passes_stalls_and_cuts() {
        let to = echo("127.0.0.1:0".parse().unwrap());
        let at = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let proxy = Proxy::new(at, at.ip(), to).unwrap();
        let mut stream = TcpStream::connect(at).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let mut b = [0; 4];
        stream.write_all(b"ping").unwrap();
        stream.read_exact(&mut b).unwrap();
        assert_eq!(&b, b"ping");
        proxy.stall();
        stream.write_all(b"late").unwrap();
        assert!(stream.read(&mut b).is_err(), "stalled");
        proxy.restore();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.read_exact(&mut b).unwrap();
        assert_eq!(&b, b"late");
        proxy.break_after(2);
        stream.write_all(b"torn").unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < 4, "{rest:?}");
        let mut stream = TcpStream::connect(at).unwrap();
        stream.write_all(b"more").unwrap();
        stream.read_exact(&mut b).unwrap();
        proxy.cut();
        assert!(matches!(stream.read(&mut b), Ok(0) | Err(_)));
    }
}
