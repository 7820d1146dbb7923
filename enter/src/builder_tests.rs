//! The hand-over: threads, processes that share memory, panics, patience. Containers are real; as root only.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use grus_core::identity::User;
use grus_core::mount::Mount;

use super::*;

/// A directory of root's with a small image in it; None, said aloud, where this cannot be tried.
fn lab() -> Option<(tempfile::TempDir, AbsPath)> {
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/mksquashfs").exists() {
        eprintln!("SKIPPED: needs root and mksquashfs");
        return None;
    }
    let dir = tempfile::Builder::new().prefix("grus-builder-").tempdir_in("/run").expect("lab");
    let tree = dir.path().join("tree");
    for name in ["data", "dev", "proc", "sys", "etc"] {
        fs::create_dir_all(tree.join(name)).expect("lab");
    }
    let image = dir.path().join("image.squashfs");
    let made = Command::new("mksquashfs").arg(&tree).arg(&image).args(["-quiet", "-no-progress"]).status();
    assert!(made.expect("mksquashfs").success());
    let image = AbsPath::parse(&image.to_string_lossy()).expect("path");
    Some((dir, image))
}

fn inputs(image: &AbsPath, source: &Path) -> Inputs {
    let user = User {
        name: "tester".into(),
        uid: 54321,
        gid: 54321,
        gecos: String::new(),
        home: "/".into(),
        shell: "/bin/sh".into(),
        groups: vec![],
    };
    let mount = Mount::parse(&format!("{}:/data", source.display()), &AbsPath::root()).expect("mount");
    Inputs {
        request: Request { mounts: vec![mount], ..Request::default() },
        site: Arc::new(Site::defaults()),
        stacks: None,
        job: Job { user, workdir: AbsPath::root(), environment: BTreeMap::new(), slurm_paths: vec![] },
        image: image.clone(),
        step: StepId::default(),
        uid: 54321,
        gid: 54321,
        gids: vec![54321, 50],
        platform: Platform::here(),
        node: None,
        limit: TIME_LIMIT,
    }
}

/// The names in a directory of the container, seen from a thread that joined it.
fn inside(container: &Container, dir: &str) -> Vec<String> {
    std::thread::scope(|scope| {
        let look = || {
            sys::unshare(false).expect("unshare");
            container.join().expect("join");
            assert!(rustix::thread::no_new_privs().expect("prctl"));
            let names = fs::read_dir(dir).expect("inside");
            names.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect()
        };
        scope.spawn(look).join().expect("thread")
    })
}

/// As job_container/tmpfs does, in a mount namespace of one's own: a directory of the job's in place of the host's.
fn make_the_jobs_own(directory: &Path) {
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).expect("private");
    let none = rustix::mount::MountFlags::empty();
    rustix::mount::mount("job", directory, "tmpfs", none, None::<&std::ffi::CStr>).expect("tmpfs");
}

#[test]
fn an_unused_builder_ends_its_thread() {
    let builder = Builder::start().expect("thread");
    let shared = Arc::downgrade(&builder.shared);
    drop(builder);
    assert!(shared.upgrade().is_none(), "the thread still holds what it shared");
}

#[test]
fn the_thread_blocks_signals_but_not_those_of_setuid() {
    let builder = Builder::start().expect("thread");
    let named = || {
        let tasks = fs::read_dir("/proc/self/task").expect("proc");
        tasks
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok())
            .find(|status| status.starts_with("Name:\tgrus-builder\n"))
    };
    // A new thread gives itself its name.
    let end = Instant::now() + TIME_LIMIT;
    let status = loop {
        match named() {
            Some(status) => break status,
            None => assert!(Instant::now() < end, "no thread of that name"),
        }
    };
    let mask = status.lines().find_map(|l| l.strip_prefix("SigBlk:\t")).expect("a mask");
    let mask = u64::from_str_radix(mask, 16).expect("hex");
    // All but KILL (9) and STOP (19), which cannot be blocked, and 32 and 33, which are libc's (nptl(7)).
    let open = |signal: u32| 1u64 << (signal - 1);
    assert_eq!(mask, !(open(9) | open(19) | open(32) | open(33)));
    drop(builder);
}

#[test]
fn a_process_that_shares_only_memory_can_hand_over() {
    let Some((dir, image)) = lab() else { return };
    let private = dir.path().join("private");
    fs::create_dir(&private).expect("lab");
    fs::write(private.join("of-the-host"), "").expect("lab");
    for own_mounts in [false, true] {
        let builder = Builder::start().expect("thread");
        let mut built = None;
        sys::in_memory_sharing_child(own_mounts, || {
            if own_mounts {
                make_the_jobs_own(&private);
                fs::write(private.join("of-the-job"), "").expect("tmpfs");
            }
            built = Some(builder.build(inputs(&image, &private)));
        });
        let container = built.expect("the child ran").expect("a container");
        // The descriptor is in this process's table, though that process had its own.
        rustix::fs::fstat(&container.namespace).expect("a live descriptor");
        let expected = if own_mounts { "of-the-job" } else { "of-the-host" };
        assert_eq!(inside(&container, "/data"), [expected]);
    }
    assert_eq!(fs::read_dir(&private).expect("lab").count(), 1, "the host's directory is as it was");
}

/// And as the user: root could write everywhere.
#[test]
fn a_container_is_saved_where_the_job_may_write() {
    let Some((dir, image)) = lab() else { return };
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("lab");
    let private = dir.path().join("private");
    fs::create_dir_all(private.join("of-the-host")).expect("lab");
    chown(private.join("of-the-host"), Some(54321), None).expect("root");
    for (name, refused) in [
        ("of-the-host", Some("is no directory here")),
        ("of-root", Some("Permission denied")),
        ("of-the-user", None),
    ] {
        let file = private.join(name).join("x.squashfs");
        let mut inputs = inputs(&image, Path::new("/etc"));
        inputs.request.save = Some(AbsPath::parse(&file.to_string_lossy()).expect("path"));
        let builder = Builder::start().expect("thread");
        let (mut built, mut theirs) = (None, None);
        sys::in_memory_sharing_child(true, || {
            make_the_jobs_own(&private);
            for own in ["of-root", "of-the-user"] {
                fs::create_dir(private.join(own)).expect("tmpfs");
            }
            chown(private.join("of-the-user"), Some(54321), None).expect("root");
            theirs = fs::metadata("/proc/self/ns/mnt").ok().map(|namespace| namespace.ino());
            built = Some(builder.build(inputs));
        });
        match (built.expect("the child ran"), refused) {
            (Ok(container), None) => {
                let view = container.saved.expect("saving was asked for").view;
                assert_eq!(rustix::fs::fstat(view).ok().map(|view| view.st_ino), theirs);
            }
            (Err(failure), Some(why)) => assert!(failure.what().contains(why), "{}", failure.what()),
            (built, _) => panic!("{name}: {built:?}"),
        }
    }
}

#[test]
fn the_callers_effective_id_does_not_matter_and_is_left_alone() {
    let Some((dir, image)) = lab() else { return };
    let builder = Builder::start().expect("thread");
    let container = std::thread::spawn({
        let (image, source) = (image.clone(), dir.path().to_owned());
        move || {
            let user = Some(rustix::process::Uid::from_raw(54321));
            rustix::thread::set_thread_res_uid(
                None::<rustix::process::Uid>,
                user,
                None::<rustix::process::Uid>,
            )
            .expect("setresuid");
            let container = builder.build(inputs(&image, &source));
            assert_eq!(rustix::process::geteuid().as_raw(), 54321);
            container
        }
    });
    let container = container.join().expect("thread").expect("a container");
    assert!(inside(&container, "/").contains(&"data".to_owned()));
    assert!(rustix::process::geteuid().is_root());
}

#[test]
fn a_panic_is_a_failure_of_this_build_only() {
    let shared = Arc::new(Shared {
        state: Mutex::new(State::Waiting),
        changed: Condvar::new(),
        abandoned: Arc::new(AtomicBool::new(false)),
    });
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _guard = shared.lock();
        panic!("while the state is held");
    }));
    assert!(result.is_err());
    shared.set(State::Ended(Some(Box::new(Err(broken_off())))));
    let failure = shared.wait(Instant::now() + TIME_LIMIT).expect("in time").expect_err("a failure");
    assert_eq!(failure.what(), "cannot build the container: the builder thread broke off");
    assert!(failure.hint().is_some());
}

#[test]
fn patience_ends() {
    let shared = Shared {
        state: Mutex::new(State::Running(Phase::Image, vec![])),
        changed: Condvar::new(),
        abandoned: Arc::new(AtomicBool::new(false)),
    };
    let late_in = shared.wait(Instant::now()).expect_err("nothing ever comes");
    assert_eq!(late_in, (Phase::Image, vec![]));
    let failure = late(Phase::Image, false, Duration::from_secs(60));
    assert_eq!(failure.what(), "cannot open the image: the file system did not answer within 60 s");
}

#[test]
fn no_descriptor_is_left_by_builds_good_or_bad() {
    let Some((dir, image)) = lab() else { return };
    let own = || {
        let links =
            fs::read_dir("/proc/self/fd").expect("proc").filter_map(|e| fs::read_link(e.ok()?.path()).ok());
        let ours = dir.path().to_string_lossy().into_owned();
        links.filter(|l| l.to_string_lossy().contains(&ours)).count()
    };
    for missing in [false, true] {
        let source = if missing { dir.path().join("none") } else { dir.path().to_owned() };
        for _ in 0..3 {
            let built = Builder::start().expect("thread").build(inputs(&image, &source));
            assert_eq!(built.is_err(), missing);
        }
    }
    assert_eq!(own(), 0);
}

/// A server of the user's own whose end ends nothing: somebody else has its connection, too (pidfd_getfd(2), or a child
/// of it, as here). libc's seteuid(2) waits for every thread of slurmstepd, so a thread that nothing sets free would
/// hang the step, and Slurm would drain the node.
#[test]
fn a_connection_that_somebody_else_has_does_not_hold_the_thread_up() {
    let Some((dir, image)) = lab() else { return };
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("lab");
    chown(image.as_path(), Some(54321), Some(54321)).expect("root");
    let (program, pids) = (dir.path().join("server"), dir.path().join("pids"));
    fs::write(&pids, "").and_then(|()| chown(&pids, Some(54321), None)).expect("lab");
    let script = format!("#!/bin/sh\nsleep 100 &\necho $! $$ >{}\nexec sleep 100\n", pids.display());
    fs::write(&program, script).expect("lab");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("lab");
    let mut inputs = inputs(&image, Path::new("/etc"));
    let mut site = Site::defaults();
    site.security.squashfuse = AbsPath::parse(&program.to_string_lossy()).expect("path");
    (inputs.site, inputs.limit) = (Arc::new(site), Duration::from_secs(2));
    let builder = Builder::start().expect("thread");
    let shared = Arc::downgrade(&builder.shared);
    let failure = builder.build(inputs).expect_err("nobody answers");
    assert!(failure.what().contains("squashfuse_ll did not answer within 2 s"), "{}", failure.what());
    let end = Instant::now() + Duration::from_secs(10);
    while shared.upgrade().is_some() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    let held = shared.upgrade().is_some();
    for pid in fs::read_to_string(pids).expect("the server ran").split_whitespace() {
        let _ = Command::new("kill").args(["-9", pid]).output();
    }
    assert!(!held, "the thread still waits for an answer");
}
