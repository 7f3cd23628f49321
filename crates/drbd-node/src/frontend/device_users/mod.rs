//! Block devices whose driver does not say who uses them: as long as somebody does, the volume is held open on their
//! behalf.
//!
//! [`Link`] connects the server of such a device, which sees I/O, with the thread ([`Follower`]) that looks for
//! [`Users`].

mod follow;
mod link;
mod users;

pub(super) use follow::{FollowSize, Follower};
pub(super) use link::Link;
pub(super) use users::Users;
