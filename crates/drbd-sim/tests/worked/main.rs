//! The worked scenarios of the state machine document, chapter 19: what lies in each node's metadata after each step,
//! in the notation of the chapter. Values are those of its tables and of recordings of kernel nodes (9.3.3).
//!
//! In `A UpToDate P u1 {B:u0 C:0 *:x} [u0 x]` A's disk is UpToDate, A is Primary, its current generation is u1; the
//! braces hold the bitmap UUIDs by node (`*`: of every node id that is not configured), the brackets the history,
//! newest first. Further ancestors may be among them: at the end of a resync a node here forgets fewer of them than a
//! kernel node, so that nobody takes their data for unrelated. J is a generation just created. A name stands for the value it had first. A node that is switched
//! off is `off` or `crashed` instead of its disk and role; `A Diskless` has no more to say.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod story;

mod crash;
mod diskless;
mod first_sync;
mod members;
mod partition;
