//! Ten thousand launches while another thread, as a user could, turns every name that they go through: the image, bind
//! sources and directories above them, destinations and directories above them, a data set. Each launch gives what the
//! user may have, or is refused; the host is the same afterwards.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{chown, symlink, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use grus_core::identity::{Group, User};
use grus_core::options::Opt;
use grus_core::path::AbsPath;
use grus_core::plan::Job;
use grus_core::platform::Platform;
use grus_core::request::{Image, Request};
use grus_core::site::Site;
use grus_enter::{Builder, Container, Failure, Inputs, StepId, TIME_LIMIT};
use rustix::fs::{RenameFlags, CWD};
use rustix::process::{Gid, Uid};
use rustix::thread::{
    move_into_link_name_space, set_thread_groups, set_thread_res_gid, set_thread_res_uid, LinkNameSpaceType,
};

use support::{eventually, loops, mounts, Lab, UID};

const LAUNCHES: usize = 10_000;

/// What must never be seen: no user but root can read it.
const SECRET: &str = "of root's alone";

/// Puts a name on the stage, and what it is turned with.
type Stage = fn(&Lab, &Path) -> Race;

/// Races: what is turned, between what the user may have and what not.
const HOSTILE_RACES: &[(&str, Stage)] = &[
    ("the image becomes a link to one of root's alone", |lab, dir| {
        Race::files(dir, "image", &lab.path("open.squashfs"), &lab.path("closed.squashfs"))
    }),
    ("a bind's source becomes a link to a directory of root's alone", |lab, dir| {
        Race::links(dir, "source", &lab.path("open"), &lab.path("closed"))
    }),
    ("a bind's source becomes a link to /etc/shadow", |lab, dir| {
        Race::links(dir, "file", &lab.path("open/file"), Path::new("/etc/shadow"))
    }),
    ("a directory above a bind's source becomes a link", |lab, dir| {
        Race::directory(dir, "above", &lab.path("closed"), |above| {
            fs::create_dir(above.join("leaf")).expect("lab");
            fs::write(above.join("leaf/file"), "open\n").expect("lab");
        })
    }),
    ("a data set becomes a link to one of root's alone", |lab, dir| {
        Race::links(dir, "set", &lab.path("open.squashfs"), &lab.path("closed.squashfs"))
    }),
    ("a directory above a destination becomes a link to /etc", |_, dir| {
        Race::directory(&dir.join("work"), "etc", Path::new("/etc"), |etc| {
            fs::create_dir(etc.join("below")).expect("lab");
        })
    }),
    ("a destination becomes a link out of the container", |_, dir| {
        Race::directory(&dir.join("work"), "up", Path::new("../../../../../../../../root"), |_| ())
    }),
    ("a destination becomes a link of /proc", |lab, dir| {
        let through = format!("/proc/1/root{}", lab.path("outside").display());
        Race::directory(&dir.join("work"), "proc", Path::new(&through), |_| ())
    }),
    ("a destination becomes a file, or goes", |_, dir| {
        fs::write(dir.join("work/.gone"), "").expect("lab");
        Race::directory(&dir.join("work"), "gone", Path::new(".gone"), |_| ())
    }),
    ("the job's directory becomes a link to /root", |_, dir| {
        Race::directory(dir, "job", Path::new("/root"), |job| fs::write(job.join("mine"), "").expect("lab"))
    }),
];

/// A name that is exchanged with another one all the time (renameat2(2)).
struct Race {
    name: PathBuf,
    other: PathBuf,
}

impl Race {
    fn turn(&self) {
        let _ = rustix::fs::renameat_with(CWD, &self.name, CWD, &self.other, RenameFlags::EXCHANGE);
    }

    fn links(dir: &Path, name: &str, open: &Path, closed: &Path) -> Self {
        let race = Self { name: dir.join(name), other: dir.join(format!("{name}.other")) };
        symlink(open, &race.name).expect("lab");
        symlink(closed, &race.other).expect("lab");
        race
    }

    /// The file itself, and a link to another one.
    fn files(dir: &Path, name: &str, open: &Path, closed: &Path) -> Self {
        let race = Self { name: dir.join(name), other: dir.join(format!("{name}.other")) };
        fs::hard_link(open, &race.name).expect("lab");
        symlink(closed, &race.other).expect("lab");
        race
    }

    fn directory(dir: &Path, name: &str, closed: &Path, fill: impl Fn(&Path)) -> Self {
        let race = Self { name: dir.join(name), other: dir.join(format!("{name}.other")) };
        fs::create_dir(&race.name).expect("lab");
        fill(&race.name);
        symlink(closed, &race.other).expect("lab");
        race
    }
}

/// The host's side of the stage.
fn stage(lab: &Lab) -> PathBuf {
    let open = |tree: &Path| {
        for name in ["src", "above", "set", "w"] {
            fs::create_dir(tree.join(name)).expect("tree");
        }
        fs::write(tree.join("file"), "").expect("tree");
    };
    lab.image("open", open);
    lab.image("closed", |tree| {
        open(tree);
        fs::write(tree.join("secret"), SECRET).expect("tree");
    });
    fs::set_permissions(lab.path("closed.squashfs"), Permissions::from_mode(0o600)).expect("lab");
    lab.dir("open", 0o755);
    lab.file("open/file", "open\n", 0o644);
    lab.dir("outside", 0o755);
    lab.dir("closed/leaf", 0o755);
    lab.file("closed/secret", SECRET, 0o644);
    lab.file("closed/leaf/secret", SECRET, 0o644);
    lab.dir("closed", 0o700);
    let dir = lab.dir("users", 0o755);
    lab.dir("users/work", 0o755);
    for dir in [&dir, &dir.join("work")] {
        chown(dir, Some(UID), Some(UID)).expect("lab");
    }
    dir
}

fn inputs(dir: &Path) -> Inputs {
    let user = User {
        name: "tester".into(),
        uid: UID,
        gid: UID,
        gecos: String::new(),
        home: "/".into(),
        shell: "/bin/sh".into(),
        groups: vec![Group { gid: UID, name: None }],
    };
    let path = |name: &str| AbsPath::parse(&dir.join(name).to_string_lossy()).expect("a path");
    let site = Site::parse(&[("site".into(), "mounts.tmp=false\nmounts.home=false\n".into())]);
    let mut request = Request { image: Some(Image::File(path("image"))), ..Request::default() };
    for mount in [
        "source:/src:ro",
        "file:/file:ro",
        "above/leaf:/above:ro",
        "type=squashfs,src={}/set,dst=/set",
        "work:/w",
        "type=tmpfs,dst=/w/etc/below",
        "type=tmpfs,dst=/w/up",
        "type=tmpfs,dst=/w/proc",
        "type=tmpfs,dst=/w/gone",
    ] {
        let whole = match mount.strip_prefix("type=") {
            Some(_) => mount.replace("{}", &dir.to_string_lossy()),
            None => format!("{}/{mount}", dir.display()),
        };
        request.set(Opt::Mount, &whole, &AbsPath::root()).expect("a mount");
    }
    Inputs {
        request,
        site: Arc::new(site.expect("a site")),
        stacks: None,
        job: Job { user, workdir: path("job"), environment: BTreeMap::new(), slurm_paths: vec![] },
        image: path("image"),
        step: StepId::default(),
        uid: UID,
        gid: UID,
        gids: vec![UID],
        platform: Platform::here(),
        node: None,
        limit: TIME_LIMIT,
    }
}

/// What a task sees: from inside, with the user's rights. A place may be mounted that the user cannot look into.
fn look(container: &Container) -> Vec<String> {
    let inside = || {
        // Of this thread alone, which ends with it: setns(2) wants a root and directory that no other thread shares.
        #[allow(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::FS).expect("unshare");
        move_into_link_name_space(container.namespace.as_fd(), Some(LinkNameSpaceType::Mount))
            .expect("setns");
        let (uid, gid) = (Uid::from_raw(UID), Gid::from_raw(UID));
        set_thread_groups(&[gid]).expect("setgroups");
        set_thread_res_gid(gid, gid, gid).expect("setresgid");
        set_thread_res_uid(uid, uid, uid).expect("setresuid");
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let list = |path: &str| -> Vec<String> {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| format!("{path}/{}", entry.file_name().to_string_lossy())).collect()
        };
        let places = ["/", "/src", "/above", "/set", "/w/etc", "/w/up", "/w/proc", "/root"];
        let mut seen: Vec<String> = places.into_iter().flat_map(list).collect();
        seen.push(read("/file"));
        seen.extend(["/src/secret", "/above/secret", "/set/secret", "/secret"].map(read));
        seen
    };
    std::thread::scope(|scope| scope.spawn(inside).join().expect("looking"))
}

/// Names, sizes and times of what must not change.
fn pictures(dirs: &[PathBuf]) -> Vec<String> {
    let picture = |path: &PathBuf| {
        let mut names: Vec<String> = fs::read_dir(path)
            .expect("a directory")
            .flatten()
            .map(|entry| {
                let m = entry.metadata().expect("stat");
                format!("{:?} {} {} {:o} {}", entry.file_name(), m.len(), m.uid(), m.mode(), m.ctime())
            })
            .collect();
        names.sort();
        format!("{path:?} {names:?}")
    };
    dirs.iter().map(picture).collect()
}

#[test]
fn ten_thousand_launches_through_names_that_turn() {
    let lab = lab!();
    let dir = stage(&lab);
    let races: Vec<Race> = HOSTILE_RACES.iter().map(|(_, make)| make(&lab, &dir)).collect();
    let inputs = inputs(&dir);
    let kept =
        [lab.path("closed"), lab.path("outside"), lab.path("closed/leaf"), "/etc".into(), "/root".into()];
    let (before, mounted) = (pictures(&kept), mounts(&lab));
    let shadow = fs::read_to_string("/etc/shadow").expect("root");
    let stop = AtomicBool::new(false);
    let (mut had, mut refused) = (0usize, BTreeMap::<String, usize>::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Each for itself, most of the time as it should be: else hardly a launch would come to its end.
            let mut turn = 0usize;
            while !stop.load(Ordering::Relaxed) {
                let race = &races[turn % races.len()];
                race.turn();
                std::thread::sleep(std::time::Duration::from_micros(20 + (turn as u64 * 37) % 300));
                race.turn();
                turn += 1;
            }
        });
        for _ in 0..LAUNCHES {
            match Builder::start().expect("a thread").build(inputs.clone()) {
                Ok(container) => {
                    had += 1;
                    let seen = look(&container);
                    let bad =
                        |seen: &String| seen.contains(SECRET) || seen.contains("secret") || *seen == shadow;
                    if let Some(bad) = seen.iter().find(|seen| bad(seen)) {
                        stop.store(true, Ordering::Relaxed);
                        panic!("{bad}");
                    }
                }
                Err(failure) => *refused.entry(kind(&failure)).or_default() += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{had} containers; refused: {refused:#?}");
    assert_eq!(pictures(&kept), before, "something of the host's was made or changed");
    assert_eq!(mounts(&lab), mounted);
    eventually("no loop device", || loops(&lab).is_empty());
    // The race was one: names were met in both states.
    assert!(had > LAUNCHES / 20, "{had} containers");
    for met in ["Permission denied", "ELOOP or EXDEV or ENOTDIR"] {
        assert!(refused.get(met).is_some_and(|times| *times > 0), "never met: {met}; {refused:#?}");
    }
}

/// Refusals by what they say.
fn kind(failure: &Failure) -> String {
    let what = failure.what();
    let known = [
        ("Permission denied", "Permission denied"),
        ("Too many levels", "ELOOP or EXDEV or ENOTDIR"),
        ("cross-device", "ELOOP or EXDEV or ENOTDIR"),
        ("Not a directory", "ELOOP or EXDEV or ENOTDIR"),
        ("No such file", "No such file"),
    ];
    let found = known.iter().find(|(text, _)| what.contains(text));
    found.map_or_else(|| what.clone(), |(_, kind)| (*kind).into())
}
