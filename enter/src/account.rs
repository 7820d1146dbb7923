//! Who the user is, as the node's name service knows it.

use std::collections::HashSet;

use grus_core::identity::{Group, User};
use grus_core::Refusal;

use crate::failure::reason;
use crate::sys;

/// The login name of `uid`, where the name service knows one.
pub fn name(uid: u32) -> Option<String> {
    sys::account(uid).ok().flatten().map(|(name, ..)| name)
}

/// The user of `uid` with primary group `gid` and supplementary groups `gids`, with all names.
///
/// A group without a name is kept by its number; a user without an account is refused, since home and name
/// would be guesses.
pub fn user(uid: u32, gid: u32, gids: &[u32]) -> Result<User, Refusal> {
    let unknown = |why: String| {
        Refusal::site(format!("user id {uid} is not known on this node{why}"))
            .hint("ask the administrator to check the node's name service: getent passwd")
    };
    let (name, _, gecos, home, shell) = sys::account(uid)
        .map_err(|b| unknown(format!(": {}", reason(b.errno))))?
        .ok_or_else(|| unknown(String::new()))?;
    let mut seen = HashSet::new();
    let groups = std::iter::once(gid)
        .chain(gids.iter().copied())
        .filter(|gid| seen.insert(*gid))
        .map(|gid| Group { gid, name: sys::group_name(gid).ok().flatten() })
        .collect();
    Ok(User { name, uid, gid, gecos, home, shell, groups })
}
