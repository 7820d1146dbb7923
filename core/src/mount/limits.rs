//! How much a request may ask for: mounts that each cost a node something, memory, and disk.

use serde::Deserialize;
use std::fmt;

use super::{Mount, Size, What};
use crate::refusal::{printable, Refusal};
use crate::site;

/// Most SquashFS files of one request: each takes a loop device or a process.
const MAX_SQUASHFS: usize = 16;

/// Most tmpfs of one request.
const MAX_TMPFS: usize = 32;

/// Most scratch directories of one request: each takes a loop device and a run of mkfs.ext4.
const MAX_SCRATCH: usize = 4;

/// The smallest scratch directory; ext4's own tables fit into less, but leave no room.
const MIN_SCRATCH: u64 = 1 << 20;

/// The smallest tmpfs, a page: the kernel takes a size of less than a byte as 'no limit' (tmpfs(5)).
const MIN_TMPFS: u64 = 4096;

/// A limit of the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Limit {
    /// Bytes.
    Bytes(Size),
    /// A share of the node's memory.
    Percent(u32),
}

impl Limit {
    /// In bytes, on a node with this much memory.
    pub fn of(self, memory: u64) -> u64 {
        match self {
            Limit::Bytes(size) => size.bytes(),
            Limit::Percent(percent) => memory / 100 * u64::from(percent),
        }
    }
}

impl TryFrom<String> for Limit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("'{}' is not a size such as 8g or 50%", printable(&text));
        let Some(percent) = text.strip_suffix('%') else {
            return Size::parse(&text).map(Limit::Bytes).map_err(|_| wrong());
        };
        let plain = percent.bytes().all(|b| b.is_ascii_digit());
        let percent = percent.parse().ok().filter(|percent| plain && (1..=1000).contains(percent));
        percent.map(Limit::Percent).ok_or_else(wrong)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Bytes(size) => size.fmt(f),
            Limit::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// Refuses more mounts of a type than one request may have.
pub fn check_number(mounts: &[Mount]) -> Result<(), Refusal> {
    type Of = fn(&What) -> bool;
    let limits: [(Of, usize, &str, &str); 3] = [
        (
            |what| matches!(what, What::Squashfs { .. }),
            MAX_SQUASHFS,
            "SquashFS files",
            "put several data sets into one file: mksquashfs DIR... FILE",
        ),
        (|what| matches!(what, What::Tmpfs(_)), MAX_TMPFS, "tmpfs", "use directories of one tmpfs"),
        (
            |what| matches!(what, What::Scratch { .. }),
            MAX_SCRATCH,
            "scratch directories",
            "use directories of one scratch",
        ),
    ];
    for (of, most, name, hint) in limits {
        if mounts.iter().filter(|mount| of(&mount.what)).count() > most {
            return Err(Refusal::user(format!("more than {most} {name} are to be mounted")).hint(hint));
        }
    }
    Ok(())
}

/// Refuses scratch directories that the site does not offer.
pub fn check_scratch<'a>(
    site: &site::Scratch,
    mounts: impl Iterator<Item = &'a Mount>,
) -> Result<(), Refusal> {
    let mut left = site.size_limit.bytes();
    for mount in mounts {
        let What::Scratch { size } = &mount.what else { continue };
        let refuse = |why: String, hint: &str| {
            let what = format!("cannot make a scratch directory on {}: {why}", mount.destination);
            Err(Refusal::user(what).hint(hint))
        };
        if site.dir.is_none() {
            let hint = "use type=tmpfs, or ask the administrator to set scratch.dir in grus.toml";
            return refuse("this site offers none".into(), hint);
        }
        if size.bytes() < MIN_SCRATCH {
            return refuse(format!("size={size} is too little"), "ask for 1m or more");
        }
        left = match left.checked_sub(size.bytes()) {
            Some(left) => left,
            None => {
                let why = format!("this site allows a step {} altogether", site.size_limit);
                return refuse(why, "ask for less; see scratch.size-limit in grus.toml(5)");
            }
        };
    }
    Ok(())
}

/// The size of each tmpfs, so that all together hold no more than `limit` bytes: those that name none share evenly
/// what the others leave.
pub fn shares(asked: &[Option<Size>], limit: u64) -> Result<Vec<u64>, Refusal> {
    let refuse = |why: &str| {
        Refusal::user(format!("the tmpfs that are to be mounted are too large: {why} {limit} bytes together"))
            .hint("ask for less; see tmpfs.size-limit in grus.toml(5)")
    };
    let sizes = asked.iter().flatten();
    let named = sizes.fold(0u64, |sum, size| sum.saturating_add(size.bytes()));
    let left = limit.checked_sub(named).ok_or_else(|| refuse("this node allows a step"))?;
    let nameless = asked.iter().filter(|size| size.is_none()).count() as u64;
    let share = left.checked_div(nameless).unwrap_or(MIN_TMPFS);
    match share < MIN_TMPFS {
        true => Err(refuse("nothing is left for one without a size; this node allows a step")),
        false => {
            Ok(asked.iter().map(|size| size.map_or(share, |size| size.bytes().max(MIN_TMPFS))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::AbsPath;

    #[test]
    fn tmpfs_share_the_limit_and_never_get_none() {
        let size = |bytes| Size::try_from(bytes).ok();
        let (k, m) = (4096, 1 << 20);
        assert_eq!(shares(&[], m), Ok(vec![]));
        assert_eq!(shares(&[None], m), Ok(vec![m]));
        assert_eq!(shares(&[size(k), None, None, size(m)], 2 * m + k), Ok(vec![k, m / 2, m / 2, m]));
        assert_eq!(shares(&[size(1), size(m - 1)], m), Ok(vec![k, m - 1]));
        for too_much in [&[size(m), size(1)][..], &[size(m), None], &[size(1 << 60); 32]] {
            assert!(shares(too_much, m).expect_err("too much").hint.is_some());
        }
    }

    #[test]
    fn a_percentage_is_of_the_nodes_memory() {
        let limit = |text: &str| Limit::try_from(text.to_owned());
        assert_eq!(limit("50%").map(|limit| limit.of(1 << 30)), Ok(536_870_900));
        assert_eq!(limit("2g").map(|limit| limit.of(1 << 30)), Ok(2 << 30));
        for bad in ["", "%", "0%", "0", "-1%", "+5%", "5 %", "1001%", "x%", "50%%"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_type_that_costs_a_node_something_has_its_own_limit() {
        for (mount, most, what) in [
            ("d.sqsh:/d{}:sqsh", 16, "more than 16 SquashFS files are to be mounted"),
            ("tmpfs:/d{}", 32, "more than 32 tmpfs are to be mounted"),
            ("type=scratch,dst=/d{},size=1g", 4, "more than 4 scratch directories are to be mounted"),
        ] {
            let mount = |n: usize| Mount::parse(&mount.replace("{}", &n.to_string()), &AbsPath::root());
            let mut mounts: Vec<Mount> = (0..most).map(|n| mount(n).expect("a mount")).collect();
            assert_eq!(check_number(&mounts), Ok(()));
            mounts.push(mount(most).expect("a mount"));
            let refusal = check_number(&mounts).expect_err(what);
            assert_eq!(refusal.what, what);
            assert!(refusal.hint.is_some());
        }
    }
}
