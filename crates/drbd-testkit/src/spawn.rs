//! Children that do not outlive us, and the name spaces they live in.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The kernel kills the child when the thread that starts it ends, however that comes about.
pub fn die_with_thread(command: &mut Command) {
    let set = || set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into);
    // SAFETY: between fork and exec only one system call is made; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(set);
    }
}

/// The calling thread leaves the network, the host name and the mounts that it shares with others.
pub(crate) fn leave_name_spaces() -> rustix::io::Result<()> {
    let flags = UnshareFlags::NEWNET | UnshareFlags::NEWUTS | UnshareFlags::NEWNS;
    // SAFETY: descriptors stay shared. What is not shared any more (the working directory as well) is
    // taken from the kernel with each call and assumed by nobody.
    unsafe { unshare_unsafe(flags) }
}
