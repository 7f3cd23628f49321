//! Recording what passes the bridge, as a pcap file.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use drbd_testkit::{Context, Place, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// All protocols, in network byte order.
const EVERYTHING: i32 = 0x0300;
const SNAP: usize = 65_536 + 64;

/// A recording, which ends when it is dropped.
pub(super) struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Records the ports of the bridge in a place. What is forwarded is seen on each port it passes, so
    /// only what comes in is kept.
    pub(super) fn start(hub: &Place, path: &Path) -> Result<Capture> {
        let file = File::create(path).context(path.display())?;
        let socket = hub.run(|| {
            Socket::new(
                Domain::from(libc::AF_PACKET),
                Type::RAW,
                Some(Protocol::from(EVERYTHING)),
            )
        })?;
        let socket = socket.context("cannot record traffic")?;
        let _ = socket.set_recv_buffer_size(64 << 20);
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .context("recording")?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let thread = std::thread::spawn(move || {
            let _ = record(&socket, BufWriter::new(file), &ended);
        });
        Ok(Capture {
            stop,
            thread: Some(thread),
        })
    }
}

fn record(mut socket: &Socket, mut out: impl Write, ended: &AtomicBool) -> std::io::Result<()> {
    // Header of the classic format: microseconds, Ethernet.
    let mut header = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 0x0004_0000, 1] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    out.write_all(&header)?;
    let mut frame = vec![0; SNAP];
    let mut last: Vec<u8> = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        let Ok(len) = socket.read(&mut frame) else {
            continue;
        };
        let bytes = frame.get(..len).unwrap_or(&[]);
        // The same frame on the way in and on the way out.
        if bytes == last {
            last.clear();
            continue;
        }
        last = bytes.to_vec();
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let len = u32::try_from(len).unwrap_or(0);
        let seconds = u32::try_from(now.as_secs()).unwrap_or(0);
        for word in [seconds, now.subsec_micros(), len, len] {
            out.write_all(&word.to_le_bytes())?;
        }
        out.write_all(bytes)?;
    }
    out.flush()
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
