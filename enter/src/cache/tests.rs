use super::*;

use std::fs::{self, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use grus_core::path::AbsPath;

use crate::call::open;
use crate::sys::{open_elsewhere, with_signals_blocked};

const UID: u32 = 54321;
const MIB: usize = 1 << 20;

/// A cache of 3 MiB, and images of a user. None where this is not root.
struct Lab {
    dir: tempfile::TempDir,
    site: Site,
}

impl Lab {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: not root");
            return None;
        }
        let dir = tempfile::tempdir_in("/run").expect("a directory");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("root");
        fs::create_dir(dir.path().join("cache")).expect("a directory");
        let mut site = Site::defaults();
        site.node_cache.dir = AbsPath::parse(&dir.path().join("cache").to_string_lossy()).ok();
        site.node_cache.size = grus_core::mount::Size::parse("3m").expect("a size");
        let mut lab = Self { dir, site };
        lab.verify("exit 0");
        Some(lab)
    }

    /// What stands for `grus verify`.
    fn verify(&mut self, script: &str) {
        let program = self.dir.path().join("grus");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a program");
        fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("root");
        self.site.pull.command = AbsPath::parse(&program.to_string_lossy()).expect("a path");
    }

    fn image(&self, name: &str, byte: u8, size: usize) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, vec![byte; size]).expect("an image");
        chown(&path, Some(UID), None).expect("root");
        path
    }

    fn ask(&self, image: &Path, uid: u32) -> Answer {
        let file = open(image, OFlags::RDONLY).expect("it is there");
        let deadline =
            Deadline::new(Instant::now() + Duration::from_secs(60), Arc::new(AtomicBool::new(false)));
        with_signals_blocked(|| copy_of(&file, &self.site, uid, &deadline)).expect("the site has a cache")
    }

    #[track_caller]
    fn copy(&self, image: &Path, uid: u32, how: &str) -> OwnedFd {
        match self.ask(image, uid) {
            Answer::Copy(file, told) if told == how => file,
            other => panic!("{other:?}, not a copy that was {how}"),
        }
    }

    #[track_caller]
    fn none(&self, image: &Path, why: &str) {
        match self.ask(image, UID) {
            Answer::None(told) if told.contains(why) => {}
            other => panic!("{other:?}, not '{why}'"),
        }
    }

    fn names(&self, of: &str) -> Vec<PathBuf> {
        let dir = self.dir.path().join("cache").join(of);
        fs::read_dir(dir).map_or(vec![], |dir| dir.flatten().map(|entry| entry.path()).collect())
    }
}

fn content(file: &OwnedFd) -> Vec<u8> {
    fs::read(proc_path(file)).expect("a copy can be read")
}

#[test]
fn a_copy_is_made_once_and_then_found() {
    let Some(lab) = Lab::new() else { return };
    let (one, same) = (lab.image("one", b'x', MIB), lab.image("same", b'x', MIB));
    let made = lab.copy(&one, UID, "made");
    assert_eq!(content(&made), vec![b'x'; MIB]);
    let inode = stat(&made, &one).expect("stat").st_ino;
    for (image, uid, how) in [
        (&one, UID, "found"),
        (&same, UID, "found by its content"),
        (&same, UID, "found"),
        // Another user has yet to show that the bytes are at hand.
        (&one, UID + 1, "found by its content"),
    ] {
        assert_eq!(stat(lab.copy(image, uid, how), image).expect("stat").st_ino, inode);
    }
    let [copy] = &lab.names("images")[..] else { panic!("one copy") };
    let status = fs::metadata(copy).expect("stat");
    assert_eq!((status.uid(), status.mode() & 0o7777, status.nlink()), (0, 0o444, 4));
    assert_eq!(copy.file_name().and_then(|n| n.to_str()).map(str::len), Some(64));
    for dir in ["images", "known"] {
        let status = fs::metadata(lab.dir.path().join("cache").join(dir)).expect("stat");
        assert_eq!((status.uid(), status.mode() & 0o777), (0, 0o700));
    }
    drop(made);
    let elsewhere = || {
        let file = open(copy, OFlags::RDONLY).expect("it is there");
        with_signals_blocked(|| open_elsewhere(file.as_fd()))
    };
    // What another test starts has this process's files until it is another program.
    let pause = || std::thread::sleep(std::time::Duration::from_millis(10));
    assert!((0..500).any(|_| !elsewhere() || {
        pause();
        false
    }));
}

#[test]
fn a_file_that_changes_is_another_image() {
    let Some(lab) = Lab::new() else { return };
    let image = lab.image("one", b'x', MIB);
    drop(lab.copy(&image, UID, "made"));
    std::thread::sleep(Duration::from_millis(20));
    fs::write(&image, vec![b'y'; MIB]).expect("a change in place");
    assert_eq!(content(&lab.copy(&image, UID, "made")), vec![b'y'; MIB]);
    // A time of change that is set back does not bring the old copy back: that of the inode cannot be set.
    let old = fs::metadata(&image).expect("stat").modified().expect("a time");
    fs::write(&image, vec![b'z'; MIB]).expect("a change in place");
    fs::File::options().append(true).open(&image).and_then(|f| f.set_modified(old)).expect("a time");
    assert_eq!(content(&lab.copy(&image, UID, "made")), vec![b'z'; MIB]);
}

#[test]
fn what_does_not_pass_is_not_for_the_kernel_and_not_tried_again() {
    let Some(mut lab) = Lab::new() else { return };
    let image = lab.image("one", b'x', MIB);
    lab.verify("exit 65");
    lab.none(&image, "is no valid SquashFS image");
    // Remembered, even if the next one would let it pass.
    lab.verify("exit 0");
    lab.none(&image, "is no valid SquashFS image");
    assert_eq!(lab.names("images"), Vec::<PathBuf>::new());
    // What cannot be told is no verdict.
    let image = lab.image("late", b'l', MIB);
    lab.verify("exit 2");
    lab.none(&image, "it ended without a word");
    lab.verify("exit 0");
    drop(lab.copy(&image, UID, "made"));
    lab.site.pull.command = AbsPath::parse("/no/such/grus").expect("a path");
    let image = lab.image("other", b'y', MIB);
    lab.none(&image, "is not installed on this node");
}

#[test]
fn what_was_late_or_not_said_is_tried_again() {
    let Some(mut lab) = Lab::new() else { return };
    let image = lab.image("one", b'x', MIB);
    let file = open(&image, OFlags::RDONLY).expect("it is there");
    let over = Deadline::new(Instant::now(), Arc::new(AtomicBool::new(true)));
    let answer = copy_of(&file, &lab.site, UID, &over).expect("the site has a cache");
    assert!(matches!(&answer, Answer::None(why) if why.contains("longer than")), "{answer:?}");
    drop(lab.copy(&image, UID, "made"));
    // A note that a crash of the node has emptied says nothing.
    let image = lab.image("two", b'y', MIB);
    lab.verify("exit 65");
    lab.none(&image, "is no valid SquashFS image");
    lab.verify("exit 0");
    for note in lab.names("known") {
        if fs::metadata(&note).expect("stat").len() < 1000 {
            fs::write(&note, "").expect("root");
        }
    }
    drop(lab.copy(&image, UID, "made"));
}

#[test]
fn a_copy_that_just_lost_its_other_name_is_no_reason() {
    let Some(lab) = Lab::new() else { return };
    let image = lab.image("one", b'x', MIB);
    drop(lab.copy(&image, UID, "made"));
    // As another launch that makes room does it, after this one has opened the copy by its KEY.
    let [copy] = &lab.names("images")[..] else { panic!("one copy") };
    fs::remove_file(copy).expect("root");
    assert_eq!(content(&lab.copy(&image, UID, "found")), vec![b'x'; MIB]);
}

#[test]
fn the_check_has_no_rights_and_nothing_of_the_callers() {
    let Some(mut lab) = Lab::new() else { return };
    let image = lab.image("one", b'x', MIB);
    // Its identity, its descriptors (255 is the shell's own script), its environment, and who else is there.
    lab.verify(
        "test \"$1 $2\" = 'verify -' && test \"$(id -u) $(id -g) $(id -G)\" = \
         '4294967280 4294967280 4294967280' && test \"$$\" = 1 && test -z \"$HOME$USER$CARGO\" && \
         test \"$(head -c3)\" = xxx && ! head -c1 /etc/shadow && ! test -w /proc/self/fd/0 && \
         for fd in /proc/self/fd/*; do case $fd in */[0-2]|*/10|*/255) ;; *) test ! -e \"$fd\" || exit 3 ;; esac; done",
    );
    drop(lab.copy(&image, UID, "made"));
}

#[test]
fn what_was_used_least_recently_makes_room_and_what_is_in_use_stays() {
    let Some(lab) = Lab::new() else { return };
    let image = |n: u8| lab.image(&format!("i{n}"), n, MIB);
    let images: Vec<PathBuf> = (0..6).map(image).collect();
    let pause = || std::thread::sleep(Duration::from_millis(20));
    for image in &images[..3] {
        drop(lab.copy(image, UID, "made"));
        pause();
    }
    drop(lab.copy(&images[0], UID, "found"));
    pause();
    // The second is the oldest now.
    let third = lab.copy(&images[2], UID, "found");
    drop(lab.copy(&images[3], UID, "made"));
    let first = lab.copy(&images[0], UID, "found");
    // The third is older than the fourth, but in use.
    let fifth = lab.copy(&images[4], UID, "made");
    assert_eq!((lab.names("images").len(), lab.names("known").len()), (3, 3));
    lab.none(&images[5], "the cache is full of images in use");
    lab.none(&images[1], "the cache is full of images in use");
    assert_eq!(content(&third), vec![2; MIB]);
    drop((first, fifth));
    drop(lab.copy(&images[5], UID, "made"));
    lab.none(&lab.image("large", 9, 3 * MIB + 1), "larger than the cache");
}

#[test]
fn there_is_never_a_part_of_a_copy() {
    let Some(lab) = Lab::new() else { return };
    let image = lab.image("one", b'x', 2 * MIB);
    let file = open(&image, OFlags::RDONLY).expect("it is there");
    let over = Deadline::new(Instant::now(), Arc::new(AtomicBool::new(true)));
    let answer = copy_of(&file, &lab.site, UID, &over).expect("the site has a cache");
    assert!(matches!(answer, Answer::None(_)), "{answer:?}");
    assert_eq!(lab.names("images"), Vec::<PathBuf>::new());
    let all = fs::read_dir(lab.dir.path().join("cache")).expect("a directory").count();
    assert_eq!(all, 3, "images, known, lock");
}

#[test]
fn many_at_once_get_whole_copies_or_none() {
    let Some(lab) = Lab::new() else { return };
    let images: Vec<(u8, PathBuf)> = (0..4).map(|n| (n, lab.image(&format!("i{n}"), n, MIB))).collect();
    let copies = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for worker in 0..8usize {
            let (lab, images, copies) = (&lab, &images, &copies);
            scope.spawn(move || {
                for turn in 0..12 {
                    // The fourth does not fit beside the others: copies come and go all the time.
                    let (byte, image) = &images[(worker + turn) % images.len()];
                    match lab.ask(image, UID + worker as u32 % 2) {
                        Answer::Copy(file, _) => {
                            assert!(content(&file) == vec![*byte; MIB], "the wrong bytes");
                            copies.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                        Answer::None(why) => {
                            assert!(why.contains("being copied") || why.contains("in use"), "{why}");
                        }
                    }
                }
            });
        }
    });
    assert!(copies.into_inner() > 0);
    assert!(lab.names("images").len() <= 3);
}

#[test]
fn a_directory_that_others_may_write_or_read_is_no_cache() {
    let Some(lab) = Lab::new() else { return };
    let image = lab.image("one", b'x', MIB);
    let cache = lab.dir.path().join("cache");
    fs::set_permissions(&cache, Permissions::from_mode(0o777)).expect("root");
    lab.none(&image, "not trusted");
    fs::set_permissions(&cache, Permissions::from_mode(0o755)).expect("root");
    chown(&cache, Some(UID), None).expect("root");
    lab.none(&image, "not trusted");
    chown(&cache, Some(0), None).expect("root");
    for inner in ["images", "known"] {
        let inner = cache.join(inner);
        fs::create_dir_all(&inner).expect("a directory");
        fs::set_permissions(&inner, Permissions::from_mode(0o755)).expect("root");
        lab.none(&image, "Operation not permitted");
        fs::set_permissions(&inner, Permissions::from_mode(0o700)).expect("root");
    }
    drop(lab.copy(&image, UID, "made"));
    // What a user would have to be root to put there.
    let known = &lab.names("known")[0];
    chown(known, Some(UID), None).expect("root");
    lab.none(&image, "Operation not permitted");
}
