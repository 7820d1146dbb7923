//! Who the user is, as the node's name service knows it.

use grus_core::identity::User;
use grus_core::Refusal;

/// The user of `uid` with primary group `gid` and supplementary groups `gids`, with all names.
pub fn user(uid: u32, gid: u32, gids: &[u32]) -> Result<User, Refusal> {
    let _ = (gid, gids);
    Err(Refusal::site(format!("user id {uid} is unknown")))
}
