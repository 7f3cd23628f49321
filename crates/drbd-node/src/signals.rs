//! Waiting for the signal that ends the daemon.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;

/// The signals that end the daemon, held back from all threads.
pub struct EndSignals {
    set: libc::sigset_t,
}

impl EndSignals {
    /// Holds back SIGTERM, SIGINT and SIGHUP. To be called before any thread is started.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn hold_back() -> io::Result<EndSignals> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: `sigemptyset` initializes the set it is given; the other calls get an initialized set and
        // null for the old mask, which they may.
        let (set, result) = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            let mut set = set.assume_init();
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
            (
                set,
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()),
            )
        };
        match result {
            0 => Ok(EndSignals { set }),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Waits for one of them.
    pub fn wait(&self) -> i32 {
        let mut signal = 0;
        loop {
            // SAFETY: both pointers are to initialized variables that outlive the call.
            if unsafe { libc::sigwait(&raw const self.set, &raw mut signal) } == 0 {
                return signal;
            }
        }
    }
}
