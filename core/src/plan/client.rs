//! The host's Slurm commands in a container, whatever its libc: `--container-slurm`.
//!
//! The host's /usr (and /lib, /lib64) is bound below [`HOST`], and each command is a link to one script that starts the
//! host's own loader with the host's libraries from there. What Slurm looks for by its absolute path (configuration,
//! plugins, munge's socket) is bound at its own path.

use super::binds::Wanted;
use super::decide::Launch;
use super::draft::Draft;
use super::resolve::{exists, locate};
use super::{Host, Make, Op, Opener, Rootfs};
use crate::mount::Mount;
use crate::path::AbsPath;
use crate::refusal::Refusal;

/// Where the commands are in the container.
const BIN: &str = "/run/grus/slurm/bin";
/// The script behind all of them.
const SCRIPT: &str = "/run/grus/slurm/run";
/// What of the host is bound, and where.
const HOST: &str = "/run/grus/slurm/host";
const HOSTS: [&str; 3] = ["/usr", "/lib", "/lib64"];

/// Commands that are brought in as far as the node has them; srun it must have.
const COMMANDS: [&str; 11] = [
    "srun", "sbatch", "salloc", "sattach", "sbcast", "scancel", "squeue", "sinfo", "scontrol", "sacct",
    "sstat",
];

/// What Slurm and Grus look for by these paths, as Debian and Red Hat have them.
const MOUNTS: [&str; 8] = [
    "/etc/slurm",
    "/etc/grus",
    "/run/slurm",
    "/run/munge",
    "/var/run/munge",
    "/usr/lib/x86_64-linux-gnu/slurm-wlm",
    "/usr/lib/aarch64-linux-gnu/slurm-wlm",
    "/usr/lib64/slurm",
];

/// The commands of this node, ready to be brought in.
#[derive(Debug)]
pub(super) struct Client {
    commands: Vec<&'static str>,
    loader: AbsPath,
    /// The host's passwd lines of users that Slurm's configuration names: commands look them up.
    accounts: String,
}

/// Looks for the commands, where they are asked for. A choice of the site's that an image cannot have is a warning,
/// a user's an error.
pub(super) fn client(
    launch: &Launch,
    rootfs: &dyn Rootfs,
    host: &dyn Host,
    warnings: &mut Vec<String>,
) -> Result<Option<Client>, Refusal> {
    if !launch.request.slurm.unwrap_or(launch.site.container.slurm) {
        return Ok(None);
    }
    if !exists(rootfs, &AbsPath::parse("/bin/sh")?) {
        let why = "the image has no /bin/sh, which the Slurm commands of the host are started by";
        if launch.request.slurm.is_none() {
            warnings.push(format!("no Slurm commands in the container: {why}"));
            return Ok(None);
        }
        return Err(Refusal::image(why).hint("leave --container-slurm out, or use an image with a shell"));
    }
    let directory = &launch.site.slurm.commands;
    let has = |path: &AbsPath| host.source(path, Opener::Site).is_ok();
    let commands: Vec<&str> = COMMANDS.into_iter().filter(|name| has(&directory.join(name))).collect();
    if !commands.contains(&"srun") {
        return Err(Refusal::site(format!("--container-slurm: this node has no {}", directory.join("srun")))
            .hint("the administrator sets slurm.commands in grus.toml; --no-container-slurm does without"));
    }
    let mut loaders = LOADERS.into_iter().filter_map(|path| AbsPath::parse(path).ok());
    let loader = loaders.find(has).ok_or_else(|| {
        Refusal::site("--container-slurm: this node's glibc has no loader at a known place")
            .hint("tell the administrator; --no-container-slurm does without")
    })?;
    let accounts = lines_of(&host.passwd(), |name| name == "root" || name == launch.site.slurm.user);
    Ok(Some(Client { commands, loader, accounts }))
}

/// Places of the loader (the System V ABI's name of it), each architecture's own. Debian's is below the triplet; what it
/// has in /lib64 is an absolute link, which would lead into the image.
pub(super) const LOADERS: [&str; 12] = [
    "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
    "/lib64/ld-linux-aarch64.so.1",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/powerpc64le-linux-gnu/ld64.so.2",
    "/lib64/ld64.so.2",
    "/lib/s390x-linux-gnu/ld64.so.1",
    "/lib/ld64.so.1",
    "/lib/riscv64-linux-gnu/ld-linux-riscv64-lp64d.so.1",
    "/lib64/ld-linux-riscv64-lp64d.so.1",
    "/lib/ld-linux-riscv64-lp64d.so.1",
];

fn triplet() -> String {
    let architecture = match std::env::consts::ARCH {
        "powerpc64" => "powerpc64le",
        other => other,
    };
    format!("{architecture}-linux-gnu")
}

/// Where a path of the host is in the container.
fn inside(path: &AbsPath) -> AbsPath {
    match HOSTS.iter().any(|top| path.components().next() == top.strip_prefix('/')) {
        true => path.components().fold(constant(HOST), |at, name| at.join(name)),
        false => path.clone(),
    }
}

fn constant(path: &str) -> AbsPath {
    AbsPath::parse(path).unwrap_or_else(|_| AbsPath::root())
}

/// Lines of a passwd(5) by their names.
fn lines_of(passwd: &[u8], wanted: impl Fn(&str) -> bool) -> String {
    let text = String::from_utf8_lossy(passwd);
    let lines = text.lines().filter(|line| line.split_once(':').is_some_and(|(name, _)| wanted(name)));
    lines.map(|line| format!("{line}\n")).collect()
}

impl Client {
    /// The image's passwd with the accounts in place of its own of these names.
    pub fn accounts(&self, image: &[u8]) -> Vec<u8> {
        let own = |name: &str| self.accounts.lines().any(|line| line.split(':').next() == Some(name));
        (lines_of(image, |name| !own(name)) + &self.accounts).into_bytes()
    }

    /// The mounts it needs, but for those that `others` bring.
    pub fn mounts(&self, launch: &Launch, others: &[Wanted]) -> Vec<Wanted> {
        let site = &launch.site;
        let repository = AbsPath::parse(&site.repository.system).ok();
        let usual = MOUNTS.into_iter().map(constant);
        let mut own: Vec<AbsPath> =
            usual.chain(site.slurm.mounts.iter().cloned()).chain(repository).collect();
        if inside(&site.slurm.commands) == site.slurm.commands {
            own.push(site.slurm.commands.clone());
        }
        own.sort_by_key(AbsPath::depth);
        let mut wanted: Vec<Wanted> = vec![];
        for path in own {
            let there = |other: &Wanted| other.brings(&path) || other.mount.destination == path;
            if !others.iter().chain(&wanted).any(there) {
                wanted.push(read_only(path.clone(), path));
            }
        }
        wanted.extend(HOSTS.map(constant).map(|top| read_only(top.clone(), inside(&top))));
        wanted
    }

    /// A script for `sh`. What steers a loader towards the image's libraries is kept from the host's: the cache by an
    /// option, LD_LIBRARY_PATH since `--library-path` takes its place.
    fn script(&self, launch: &Launch) -> String {
        let slurm = &launch.site.slurm;
        let triplet = triplet();
        let usual = [format!("/usr/lib/{triplet}"), format!("/lib/{triplet}"), "/usr/lib64".into()];
        let usual = usual.into_iter().chain(["/lib64", "/usr/lib", "/lib"].map(str::to_owned));
        let dirs: Vec<AbsPath> = match slurm.library_path.as_slice() {
            [] => usual.filter_map(|dir| AbsPath::parse(&dir).ok()).collect(),
            given => given.to_vec(),
        };
        let dirs: Vec<String> = dirs.iter().map(|dir| inside(dir).to_string()).collect();
        format!(
            "#!/bin/sh\n\
             # A Slurm command of the host, by the host's own loader and libraries.\n\
             unset LD_PRELOAD LD_AUDIT\n\
             exec {} --inhibit-cache --library-path {} {}/\"${{0##*/}}\" \"$@\"\n",
            quoted(inside(&self.loader).as_str()),
            quoted(&dirs.join(":")),
            quoted(inside(&slurm.commands).as_str()),
        )
    }
}

/// A word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn read_only(source: AbsPath, destination: AbsPath) -> Wanted {
    let mount = Mount { readonly: true, ..Mount::bind(source, destination) };
    Wanted { mount, devices: false, opener: Opener::Site, required: false }
}

impl Draft<'_> {
    /// Plans the script and the commands' links to it.
    pub fn client(&mut self, client: &Client, launch: &Launch) -> Result<(), Refusal> {
        let bin = locate(self.rootfs, &constant(BIN))?.path;
        if let Some(over) = self.around(&bin) {
            return Err(Refusal::user(format!(
                "--container-slurm puts the host's commands in {BIN}, which the mount on {} covers",
                over.destination()
            ))
            .hint("mount elsewhere, or pass --no-container-slurm"));
        }
        let destination = self.place(&constant(SCRIPT), false)?;
        let content = client.script(launch).into_bytes();
        self.mounts.push(Op::Text { destination, content, executable: true });
        client.commands.iter().try_for_each(|name| self.make(&bin.join(name), Make::Link(constant(SCRIPT))))
    }
}

/// Puts the commands at the end of PATH, so that the image's own of such a name go first.
pub(super) fn after(path: &str) -> String {
    match path {
        "" => BIN.into(),
        path => format!("{path}:{BIN}"),
    }
}
