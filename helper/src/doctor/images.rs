//! The repositories: where they are, whether they can be written, how much room there is and how fast it is.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use grus_enter::probe;
use rustix::fs::{access, statfs, Access, Mode, OFlags, StatFs};

use super::{Check, Patient};
use crate::failure::reason;
use crate::output::bytes;
use crate::repository::Repository;

/// Below this no image of use fits.
const NO_SPACE: u64 = 256 << 20;
/// Below this it is worth a word.
const LITTLE_SPACE: u64 = 5 << 30;
/// A write of this size, or what fits into [`WRITING`], tells the speed.
const WRITTEN: usize = 32 << 20;
/// How long is written at most, without what the disk then still has to do.
const WRITING: Duration = Duration::from_millis(500);
/// Slower than this, in bytes a second, a pull waits for the disk.
const SLOW: f64 = 20e6;

/// Magic numbers of statfs(2), and whether what they stand for is seen by other machines.
const KINDS: [(u64, &str, Reach); 14] = [
    (0x6969, "NFS", Reach::Shared),
    (0x0bd0_0bd0, "Lustre", Reach::Shared),
    (0x4750_4653, "GPFS", Reach::Shared),
    (0x1983_0326, "BeeGFS", Reach::Shared),
    (0x00c3_6400, "CephFS", Reach::Shared),
    (0xff53_4d42, "CIFS", Reach::Shared),
    (0x5346_414f, "AFS", Reach::Shared),
    (0x6573_5546, "FUSE", Reach::Unknown),
    (0xef53, "ext4", Reach::Local),
    (0x5846_5342, "XFS", Reach::Local),
    (0x9123_683e, "Btrfs", Reach::Local),
    (0x2fc1_2fc1, "ZFS", Reach::Local),
    (0x794c_7630, "an overlay", Reach::Local),
    (0x0102_1994, "tmpfs", Reach::Memory),
];

/// Who sees a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Shared,
    Local,
    Memory,
    Unknown,
}

pub fn checks(patient: &Patient) -> Vec<Check> {
    let mut all = match patient.context.repository() {
        Ok(repository) => own(&repository),
        Err(failure) => {
            let check = Check::fails("repository.user", failure.to_string());
            let check = check.means("no image can be pulled or found");
            vec![match failure.hint() {
                Some(hint) => check.mend(hint),
                None => check,
            }]
        }
    };
    match patient.context.system_repository() {
        Ok(None) => {}
        Ok(Some(repository)) => all.push(system(&repository)),
        Err(failure) => all.push(Check::fails("repository.system", failure.to_string())),
    }
    all
}

/// The directory itself, or the nearest above it that is there: where it will be made.
fn nearest_there(dir: &Path) -> PathBuf {
    dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn own(repository: &Repository) -> Vec<Check> {
    let (root, there) = (repository.root(), nearest_there(repository.root()));
    let shown = root.display();
    let elsewhere =
        "repository.user in grus.toml, the administrator's, chooses another place; GRUS_REPOSITORY and \
                     --repository do for grus alone, srun does not look there";
    let bad = |found: String| {
        let check = Check::fails("repository.user", found).means("images cannot be pulled or imported");
        vec![check.mend(elsewhere)]
    };
    if !there.is_dir() {
        return bad(format!("{} is no directory", there.display()));
    }
    if let Err(e) = access(&there, Access::WRITE_OK | Access::EXEC_OK) {
        return bad(format!("{} cannot be written: {}", there.display(), reason(&e.into())));
    }
    let fs = match statfs(&there) {
        Ok(fs) => fs,
        Err(e) => return bad(format!("{}: {}", there.display(), reason(&e.into()))),
    };
    let made = if root.exists() { "" } else { ", to be made by the first pull" };
    let mut all = vec![place(&format!("{shown}{made}"), kind(fs.f_type as u64))];
    all.push(space(&fs, &there));
    all.push(speed(&there));
    if root.exists() {
        all.push(sound(repository));
    }
    all
}

fn kind(magic: u64) -> (&'static str, Reach) {
    // Some architectures have a signed or a 32-bit f_type.
    let found = KINDS.iter().find(|(number, _, _)| *number == magic & 0xffff_ffff);
    found.map_or(("a file system of its own kind", Reach::Unknown), |(_, name, reach)| (name, *reach))
}

fn place(shown: &str, (kind, reach): (&str, Reach)) -> Check {
    let found = format!("{shown}, on {kind}");
    match reach {
        Reach::Shared | Reach::Unknown => Check::ok("repository.user", found),
        Reach::Local => Check::ok(
            "repository.user",
            format!("{found} of this machine: good where all nodes mount it by the same path"),
        ),
        Reach::Memory => Check::warning("repository.user", format!("{found}: in this machine's memory"))
            .means("other nodes do not see the images, and a reboot takes them away")
            .mend("repository.user in grus.toml: a file system that all nodes mount"),
    }
}

fn space(fs: &StatFs, at: &Path) -> Check {
    let name = "repository.space";
    let free = fs.f_bavail.saturating_mul(fs.f_bsize as u64);
    let found = format!("{} free", bytes(free));
    let mend = "grus prune --older-than 90d; or choose another place for the repository";
    if fs.f_files > 0 && fs.f_ffree < 100 {
        let found = format!("{} has no file (inode) left", at.display());
        return Check::fails(name, found).means("no image can be written").mend(mend);
    }
    match free {
        0..NO_SPACE => Check::fails(name, found).means("no image can be written").mend(mend),
        NO_SPACE..LITTLE_SPACE => Check::warning(name, found).means("a large image does not fit").mend(mend),
        _ => Check::ok(name, found),
    }
}

/// Writes, as a pull does, into a file that no name leads to, or one that is removed at once.
fn speed(dir: &Path) -> Check {
    let name = "repository.speed";
    let written = scratch_file(dir).and_then(|file| write_some(&file));
    match written {
        Ok((bytes, seconds)) => {
            let rate = bytes as f64 / seconds.max(1e-6);
            let found = format!("{}/s written and on disk", self::bytes(rate as u64));
            match rate < SLOW {
                false => Check::ok(name, found),
                true => Check::warning(name, found)
                    .means("pulls wait for this file system")
                    .mend("repository.user in grus.toml: a faster file system"),
            }
        }
        Err(e) => {
            let check = Check::fails(name, format!("cannot write in {}: {}", dir.display(), reason(&e)));
            let check = check.means("images cannot be pulled or imported");
            check.mend(match e.kind() {
                io::ErrorKind::QuotaExceeded => "see quota -s (lfs quota), and: grus prune --older-than 90d",
                _ => "grus prune --older-than 90d; or choose another place for the repository",
            })
        }
    }
}

fn scratch_file(dir: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
        return Ok(file.into());
    }
    // NFS and Lustre have no files without a name (open(2), O_TMPFILE).
    let path = dir.join(format!(".grus-doctor.{}", std::process::id()));
    crate::interrupt::temporary().insert(path.clone());
    let file = File::options().write(true).create_new(true).open(&path);
    crate::interrupt::remove(&path);
    file
}

fn write_some(mut file: &File) -> io::Result<(usize, f64)> {
    // No zeros: a file system that compresses would only flatter itself.
    let mut number = 0x2545_f491_4f6c_dd1du64;
    let block: Vec<u8> = (0..(1 << 20) / 8)
        .flat_map(|_| {
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            number.to_le_bytes()
        })
        .collect();
    let (start, mut written) = (Instant::now(), 0);
    while written < WRITTEN && start.elapsed() < WRITING {
        file.write_all(&block)?;
        written += block.len();
    }
    file.sync_data()?;
    Ok((written, start.elapsed().as_secs_f64()))
}

fn sound(repository: &Repository) -> Check {
    let name = "repository.images";
    match repository.list() {
        Ok(listing) if listing.damage.is_empty() => {
            Check::ok(name, format!("{} names and images, all sound", listing.rows.len()))
        }
        Ok(listing) => Check::warning(
            name,
            format!(
                "{}{}",
                listing.damage[0],
                match listing.damage.len() {
                    1 => String::new(),
                    n => format!(", and {} more", n - 1),
                }
            ),
        )
        .means("these images do not run")
        .mend("'grus images' names them all; pull them again, or: grus prune"),
        Err(failure) => Check::fails(name, failure.to_string()).means("no image is found"),
    }
}

/// Only what root alone can write in it is mounted by the kernel.
fn system(repository: &Repository) -> Check {
    let name = "repository.system";
    let root = repository.root();
    let shown = root.display();
    if let Err(e) = fs::read_dir(root) {
        // One that nothing was put into yet is none: users' own images run.
        let missing = e.kind() == io::ErrorKind::NotFound;
        return Check::bad(name, !missing, format!("{shown}: {}", reason(&e)))
            .means("the site's images are not found on this machine")
            .mend(format!("mount it here, or as root: mkdir -p {shown}; chmod 0755 {shown}"));
    }
    match probe::why_not_roots(root) {
        Ok(None) => Check::ok(name, format!("{shown} is there, and root's alone")),
        Ok(Some(why)) | Err(why) => Check::warning(name, format!("{shown} is not root's alone: {why}"))
            .means("its images are treated as users' own: served by squashfuse, which is slower")
            .mend(format!("chown -R root:root {shown}; chmod -R go-w {shown}; and so the directories above")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn file_systems_are_told_by_their_magic_number() {
        assert_eq!(kind(0xef53), ("ext4", Reach::Local));
        assert_eq!(kind(0xffff_ffff_9123_683e).0, "Btrfs", "sign-extended");
        assert_eq!(kind(1).1, Reach::Unknown);
        assert_eq!(place("/dev/shm/x", kind(0x0102_1994)).state, State::Warning);
    }

    #[test]
    fn a_write_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(speed(dir.path()).name, "repository.speed");
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
        assert_eq!(speed(&dir.path().join("none")).state, State::Fails);
    }

    #[test]
    fn what_is_not_made_yet_is_judged_where_it_will_be() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(nearest_there(&dir.path().join("a/b/c")), dir.path());
    }
}
