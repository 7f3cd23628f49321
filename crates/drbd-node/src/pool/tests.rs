use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn buffers_are_aligned_and_as_long_as_asked() {
    let pool = Pool::new(8 << 20);
    for len in [0, 1, 512, 4096, 4097, 65536, MAX_LEN] {
        let buf = pool.alloc(len, Purpose::Internal).unwrap();
        assert_eq!(buf.len(), len);
        assert_eq!(buf.as_ptr() as usize % ALIGN, 0);
    }
    assert!(pool.alloc(MAX_LEN + 1, Purpose::Internal).is_none());
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn names_become_stale_with_the_last_reference() {
    let pool = Pool::new(4 << 20);
    let mut buf = pool.alloc(4096, Purpose::Application).unwrap();
    buf.fill(7);
    let id = buf.freeze().into_id();
    let io = pool.get(id).expect("the engine holds a reference");
    assert_eq!(&io[..], &[7; 4096][..]);
    let engine = pool.reclaim(id).expect("the engine's reference");
    assert!(pool.reclaim(id).is_none(), "there was only one");
    drop(engine);
    assert!(pool.get(id).is_some(), "I/O still holds it");
    drop(io);
    assert!(pool.get(id).is_none());
    let again = pool.alloc(4096, Purpose::Application).unwrap().freeze();
    assert_ne!(again.id(), id, "the memory is reused under a new name");
    assert!(pool.get(id).is_none());
}

#[test]
fn a_full_pool_refuses_and_wakes_on_release() {
    let pool = Pool::new(4 << 20);
    let mut held: Vec<_> = (0..4)
        .map(|_| pool.alloc(MAX_LEN, Purpose::Internal).unwrap())
        .collect();
    assert!(pool.alloc(1, Purpose::Internal).is_none());
    let count = Arc::new(Count(AtomicUsize::new(0)));
    pool.wake_on_release(count.clone());
    held.pop();
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    held.pop();
    assert_eq!(
        count.0.load(Ordering::SeqCst),
        1,
        "a wake-up is asked for each time"
    );
    // Memory of one class serves another one.
    let small: Vec<_> = (0..512)
        .map(|_| pool.alloc(4096, Purpose::Internal).unwrap())
        .collect();
    assert!(pool.alloc(4096, Purpose::Internal).is_none());
    drop(small);
    assert!(pool.alloc(MAX_LEN, Purpose::Internal).is_some());
}

#[test]
fn applications_leave_room_for_peers() {
    let pool = Pool::new(4 << 20);
    let held: Vec<_> = std::iter::from_fn(|| pool.alloc(65536, Purpose::Application)).collect();
    assert_eq!(held.len(), 32, "half of the pool");
    let peers: Vec<_> = std::iter::from_fn(|| pool.alloc(65536, Purpose::Internal)).collect();
    assert_eq!(peers.len(), 32);
    drop(held);
    assert!(pool.alloc(65536, Purpose::Application).is_some());
}

#[test]
fn references_survive_many_threads() {
    let pool = Pool::new(4 << 20);
    let threads: Vec<_> = (0..4u8)
        .map(|n| {
            let pool = pool.clone();
            std::thread::spawn(move || {
                for round in 0..2000u32 {
                    let Some(mut buf) = pool.alloc(4096, Purpose::Internal) else {
                        continue;
                    };
                    buf.fill(n ^ round as u8);
                    let id = buf.freeze().into_id();
                    let io = pool.get(id).unwrap();
                    drop(pool.reclaim(id).unwrap());
                    assert!(io.iter().all(|b| *b == n ^ round as u8));
                }
            })
        })
        .collect();
    for t in threads {
        t.join().unwrap();
    }
    assert_eq!(pool.in_use(), 0);
}
