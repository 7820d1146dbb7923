//! Golden plans: launches against a stand-in tree, each compared with its text under `core/tests/golden`.
//! `GRUS_GOLDEN=1 cargo test -p grus-core` rewrites the texts; review reads the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::*;
use crate::cdi::Registry;
use crate::elf::Object;
use crate::identity::{Group, User};
use crate::image::ImageConfig;
use crate::options::by_name;
use crate::refusal::Refusal;
use crate::request::Request;
use crate::site::Site;
use crate::swap::Swap;

mod client;
mod devices;
mod modules;
mod places;
mod stack;
mod tasks;

/// An image's tree: path to entry, and contents of files.
#[derive(Default)]
struct Tree {
    entries: BTreeMap<String, Entry>,
    contents: BTreeMap<String, Vec<u8>>,
}

impl Tree {
    fn with(mut self, kind: Kind, paths: &[&str]) -> Self {
        for path in paths {
            let mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
            let (path, target) = path.split_once(" -> ").map_or((*path, None), |(p, t)| (p, Some(t.into())));
            self.entries.insert(path.into(), Entry { kind, mode, uid: 0, gid: 0, target });
        }
        self
    }

    fn containing(mut self, path: &str, text: &str) -> Self {
        self = self.with(Kind::File, &[path]);
        self.contents.insert(path.into(), text.into());
        self
    }

    /// What Debian's minbase has of the places that matter.
    fn debian() -> Self {
        Self::default()
            .with(
                Kind::Directory,
                &[
                    "/",
                    "/dev",
                    "/etc",
                    "/home",
                    "/proc",
                    "/root",
                    "/sys",
                    "/tmp",
                    "/usr",
                    "/usr/local",
                    "/opt",
                ],
            )
            .containing("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
            .containing("/etc/group", "root:x:0:\nusers:x:100:\n")
    }
}

impl Rootfs for Tree {
    fn entry(&self, path: &AbsPath) -> Result<Option<Entry>, Refusal> {
        Ok(self.entries.get(path.as_str()).cloned())
    }

    fn read(&self, path: &AbsPath, limit: usize) -> Result<Option<Vec<u8>>, Refusal> {
        let content = self.contents.get(path.as_str()).cloned();
        assert!(content.as_ref().is_none_or(|c| c.len() <= limit));
        Ok(content)
    }
}

/// The host's files: what exists, what only root can reach.
#[derive(Default)]
struct Files {
    kinds: BTreeMap<&'static str, Kind>,
    secret: &'static [&'static str],
    libraries: BTreeMap<&'static str, Object>,
    texts: BTreeMap<&'static str, &'static str>,
}

impl Files {
    fn node() -> Self {
        let dirs =
            ["/proc", "/sys", "/dev", "/tmp", "/home/alice", "/home/alice/run", "/scratch", "/data", "/work"];
        let mut all: BTreeMap<_, _> = dirs.into_iter().map(|d| (d, Kind::Directory)).collect();
        all.extend(["/etc/hosts", "/etc/resolv.conf", "/data/file"].map(|f| (f, Kind::File)));
        all.insert("/dev/fuse", Kind::Device);
        all.extend(["/opt/mpi", "/usr/lib", "/usr/lib/ucx"].map(|d| (d, Kind::Directory)));
        all.extend(["/opt/mpi/libmpi.so.12.4", "/usr/lib/libcxi.so.1"].map(|f| (f, Kind::File)));
        all.insert("/secret", Kind::Directory);
        all.extend(
            ["/usr", "/lib", "/lib64", "/etc/slurm", "/run/munge", "/site", "/images"]
                .map(|d| (d, Kind::Directory)),
        );
        let programs = ["/usr/bin/srun", "/usr/bin/sbatch", "/site/srun"].into_iter();
        all.extend(programs.chain(crate::plan::client::LOADERS.iter().copied()).map(|f| (f, Kind::File)));
        Self { kinds: all, secret: &["/secret"], ..Self::default() }
    }
}

impl Host for Files {
    fn source(&self, path: &AbsPath, opener: Opener) -> Result<Kind, Unavailable> {
        if opener == Opener::User && self.secret.contains(&path.as_str()) {
            return Err(Unavailable("Permission denied".into()));
        }
        self.kinds.get(path.as_str()).copied().ok_or_else(|| Unavailable("No such file or directory".into()))
    }

    fn missing(&self, paths: &BTreeSet<AbsPath>, opener: Opener) -> Option<(AbsPath, Unavailable)> {
        paths.iter().find_map(|path| Some((path.clone(), self.source(path, opener).err()?)))
    }

    fn library(&self, path: &AbsPath, _opener: Opener) -> Option<Object> {
        self.libraries.get(path.as_str()).cloned()
    }

    fn usable(&self, path: &AbsPath) -> Result<(), Unavailable> {
        self.source(path, Opener::User).map(|_| ())
    }

    fn text(&self, path: &AbsPath, _limit: usize) -> Option<Vec<u8>> {
        self.texts.get(path.as_str()).map(|text| (*text).into())
    }

    fn passwd(&self) -> Vec<u8> {
        b"root:x:0:0:root:/root:/bin/bash\nslurm:x:64030:64030::/:/bin/false\nbob:x:7:7::/:/bin/sh\n".into()
    }
}

fn alice() -> User {
    User {
        name: "alice".into(),
        uid: 1000,
        gid: 1000,
        gecos: String::new(),
        home: "/home/alice".into(),
        shell: "/bin/bash".into(),
        groups: vec![
            Group { gid: 1000, name: Some("alice".into()) },
            Group { gid: 50, name: Some("lab".into()) },
        ],
    }
}

struct Case {
    options: &'static [&'static str],
    site: &'static str,
    workdir: &'static str,
    image: ImageConfig,
    tree: Tree,
    swap: Option<Swap>,
    devices: Option<Registry>,
    variables: &'static [(&'static str, &'static str)],
    files: Files,
}

impl Case {
    fn of(options: &'static [&'static str]) -> Self {
        let image = ImageConfig { env: vec!["PATH=/usr/bin".into(), "IMG=1".into()], ..Default::default() };
        Self {
            options,
            site: "",
            workdir: "/home/alice/run",
            image,
            tree: Tree::debian(),
            swap: None,
            devices: None,
            variables: &[],
            files: Files::node(),
        }
    }

    fn decide(&self) -> Result<LaunchPlan, Refusal> {
        let cwd = AbsPath::parse(self.workdir).expect("a path");
        let mut request = Request::default();
        for word in self.options {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            request.set(by_name(name).expect("a known option").opt, value, &cwd)?;
        }
        let site = Site::parse(&[("grus.toml".into(), self.site.into())])?;
        let environment = [("PATH", "/host/bin"), ("LD_LIBRARY_PATH", "/host/lib"), ("HOME", "/home/alice")];
        let job = Job {
            user: alice(),
            workdir: cwd,
            environment: environment
                .iter()
                .chain(self.variables)
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
            slurm_paths: vec![],
        };
        let image = AbsPath::parse("/repo/image.squashfs").expect("static");
        let launch = Launch {
            request: &request,
            image: &image,
            how: How::Kernel,
            config: &self.image,
            site: &site,
            job: &job,
            swap: self.swap.as_ref(),
            devices: self.devices.as_ref(),
            one_task_of_several: false,
        };
        decide(&launch, &self.tree, &self.files)
    }

    fn refused(&self) -> Refusal {
        match self.decide() {
            Ok(plan) => panic!("not refused:\n{plan}"),
            Err(refusal) => refusal,
        }
    }

    fn golden(&self, name: &str) {
        let plan = self.decide().unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        let text = plan.to_string();
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.plan"));
        if std::env::var_os("GRUS_GOLDEN").is_some() {
            std::fs::write(&file, &text).expect("golden folder is writable");
        }
        let golden = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, golden, "{name}: run with GRUS_GOLDEN=1 to accept");
    }
}

#[test]
fn plain() {
    Case::of(&[]).golden("plain");
}

#[test]
fn every_option() {
    let mut case = Case::of(&[
        "mount=/data:/input:ro",
        "mount=/data/file:/usr/local/etc/file",
        "mount=/dev/fuse:/dev/fuse",
        "writable-volatile=/usr/local,/opt",
        "no-container-mount-home",
        "no-container-mount-workdir",
    ]);
    case.image.working_dir = "/app".into();
    case.golden("every_option");
}

#[test]
fn every_type_of_mount() {
    let mut case = Case::of(&[
        "mount=type=tmpfs,destination=/fast,size=64m,mode=1777,huge=advise",
        "mount=/data:/fast/in/data:ro+noexec",
        "mount=/data/file:/fast/file",
        "mount=type=squashfs,source=/data/file,destination=/set,noexec",
        "mount=type=scratch,destination=/scr,size=10g",
        "mount=src=/scratch,dst=/s,recursive=false",
        "container-mounts=umount:/tmp,/nowhere:/x:optional,/data:/y",
        "container-workdir=/fast/in/data",
        "container-env=LD_LIBRARY_PATH,IMG=2",
        "container-writable",
    ]);
    case.site = "scratch.dir = '/local'";
    case.golden("every_type_of_mount");
}

#[test]
fn scratch_is_what_the_site_offers() {
    let one = &["mount=type=scratch,dst=/a,size=10g"][..];
    let two = &["mount=type=scratch,dst=/a,size=10g", "mount=type=scratch,dst=/b,size=1"][..];
    let small = "scratch.dir = '/local'\nscratch.size-limit = '10g'\n";
    for (options, site, what) in [
        (one, "", "cannot make a scratch directory on /a: this site offers none"),
        (
            one,
            "scratch.dir = '/local'\nscratch.size-limit = '9g'",
            "cannot make a scratch directory on /a: this site allows a step 9g altogether",
        ),
        (two, small, "cannot make a scratch directory on /b: size=1 is too little"),
    ] {
        let refusal = Case { site, ..Case::of(options) }.refused();
        assert_eq!(refusal.what, what);
        assert!(refusal.hint.is_some());
    }
    let more = &["mount=type=scratch,dst=/a,size=10g", "mount=type=scratch,dst=/b,size=1m"];
    assert!(Case { site: small, ..Case::of(more) }.refused().what.contains("/b: this site allows"));
    assert!(Case { site: small, ..Case::of(one) }.decide().is_ok());
}

#[test]
fn links_are_followed_inside_the_image() {
    let mut case = Case::of(&["mount=/data:/var/run/data", "mount=/scratch:/evil/sub"]);
    case.tree = Tree::debian().with(Kind::Directory, &["/var", "/run"]).with(
        Kind::Symlink,
        &["/var/run -> /run", "/evil -> ../../../../opt", "/etc/resolv.conf -> ../run/x/resolv.conf"],
    );
    case.golden("links");
}

#[test]
fn an_empty_image_gets_everything_it_lacks() {
    let mut case = Case::of(&[]);
    case.tree = Tree::default().with(Kind::Directory, &["/"]);
    case.image = ImageConfig::default();
    case.golden("empty_image");
}

#[test]
fn the_site_adds_replaces_and_switches_off() {
    let mut case = Case::of(&["mount=/scratch:/tmp"]);
    case.site = "[mounts]\nhome = false\nsite = ['/data:/opt/data:ro', '/missing', '/secret:/secret']\n\
                 [environment]\nkeep = ['LD_LIBRARY_PATH']\nset = { SITE = 'x' }\n";
    case.workdir = "/work";
    case.golden("site");
}

#[test]
fn a_job_that_starts_in_a_system_directory_sees_the_images() {
    let mut case = Case::of(&[]);
    case.workdir = "/usr";
    case.golden("system_workdir");
}

fn path(text: &str) -> AbsPath {
    AbsPath::parse(text).expect("static")
}

#[test]
fn refusals_name_both_sides_and_the_way_out() {
    for (options, what) in [
        (&["mount=/nowhere:/x"][..], "cannot bind /nowhere on /x: No such file or directory"),
        (&["mount=/secret:/x"], "cannot bind /secret on /x: Permission denied"),
        (
            &["mount=/data:/etc/passwd"],
            "cannot mount on /etc/passwd: a directory cannot be mounted on a file",
        ),
        (&["mount=/data/file:/opt"], "cannot mount on /opt: a file cannot be mounted on a directory"),
        (&["mount=/data:/x", "mount=/scratch:/x"], "both /data and /scratch are to be mounted on /x"),
        (&["mount=/data:/proc/self"], "cannot mount on /proc/self: /proc is the node's own"),
        (&["mount=/data:/dev"], "cannot mount on /dev: /dev is the node's own"),
        (
            &["mount=/data:/home/alice/new"],
            "cannot mount on /home/alice/new: it lies in /home/alice, which is the host's /home/alice, and \
             /home/alice/new: No such file or directory",
        ),
        (&["mount=type=squashfs,source=/data,destination=/x"], "cannot mount /data on /x: it is not a file"),
        (
            &["mount=type=squashfs,source=/data/file,destination=/x", "mount=/data:/x/y"],
            "cannot mount on /x/y: it lies in /x, which is a read-only SquashFS mount",
        ),
        (&["mount=umount:/opt"], "cannot leave out /opt: nothing is mounted there"),
        (&["container-workdir=/nope"], "--container-workdir=/nope: there is no such directory"),
        (&["container-workdir=/tmp/nope"], "--container-workdir=/tmp/nope: there is no such directory"),
        (
            &["mount=type=tmpfs,dst=/opt", "writable-volatile=/opt"],
            "--writable-volatile=/opt: /opt is mounted, not the image's",
        ),
        (&["writable-volatile=/nope"], "--writable-volatile=/nope: the image has no such directory"),
        (&["writable-volatile=/etc/passwd"], "--writable-volatile=/etc/passwd: it is not a directory"),
        (&["writable-volatile=/tmp"], "--writable-volatile=/tmp: /tmp is the host's, not the image's"),
    ] {
        let refusal = Case::of(options).refused();
        assert_eq!(refusal.what, what);
        assert!(refusal.hint.is_some(), "{what}");
    }
}

#[test]
fn no_path_adds_a_line_to_a_plan() {
    let mut case = Case::of(&[
        "mount=/data:/x\nbind      /etc on /etc (rw)\x1b[2J\u{9b}",
        "mount=type=tmpfs,dst=/tmpfs\nbind      /etc on /etc (rw)",
    ]);
    case.workdir = "/home/alice/run\nbind      /etc on /etc (rw)";
    let text = case.decide().expect("there may be such paths").to_string();
    assert!(!text
        .lines()
        .any(|line| line.starts_with("bind      /etc on") || line.contains(char::is_control)));
    assert!(
        text.contains("bind      /data on /x\\x0abind      /etc on /etc (rw)\\x1b[2J\\x9b (rw)\n"),
        "{text}"
    );
    // Nor is one cut: the audit trail has all of it.
    let long = AbsPath::parse(&format!("/{}", "y".repeat(255)).repeat(10)).expect("a path");
    assert!(Op::Volatile { destination: long.clone() }.to_string().ends_with(long.as_str()));
}

#[test]
fn hostile_links_are_refused_not_followed_for_ever() {
    for link in ["/x -> /x", "/x -> x/../x/y"] {
        let mut case = Case::of(&["mount=/data:/x/y"]);
        case.tree = Tree::debian().with(Kind::Symlink, &[link]);
        assert!(case.refused().what.ends_with("too many symbolic links"), "{link}");
    }
    let mut case = Case::of(&["mount=/data:/etc/passwd/x"]);
    case.tree = Tree::debian();
    assert!(case.refused().what.ends_with("/etc/passwd is not a directory"));
}
