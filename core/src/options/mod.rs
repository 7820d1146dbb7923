//! The one table of options: the plugin registers it, `--help`, the man page and `grus plan` are made from
//! it, and [`crate::request`] gives each its meaning. Each is a variable of the environment, too ([`variables`]).

pub mod variables;

/// Every option Grus adds to srun, sbatch and salloc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opt {
    /// `--container-image`
    Image,
    /// `--mount`
    Mount,
    /// `--container-mounts`
    Mounts,
    /// `--writable-volatile`
    WritableVolatile,
    /// `--container-mount-home`
    MountHome,
    /// `--no-container-mount-home`
    NoMountHome,
    /// `--container-mount-workdir`
    MountWorkdir,
    /// `--no-container-mount-workdir`
    NoMountWorkdir,
    /// `--container-workdir`
    Workdir,
    /// `--container-env`
    Env,
    /// `--container-writable`
    Writable,
    /// `--container-readonly`
    Readonly,
    /// `--container-name`
    Name,
    /// `--container-save`
    Save,
    /// `--container-remap-root`
    RemapRoot,
    /// `--no-container-remap-root`
    NoRemapRoot,
    /// `--container-entrypoint`
    Entrypoint,
    /// `--no-container-entrypoint`
    NoEntrypoint,
    /// `--container-entrypoint-log`
    EntrypointLog,
    /// `--container-unshare`
    Unshare,
    /// `--container-slurm`
    Slurm,
    /// `--no-container-slurm`
    NoSlurm,
    /// `--container-gpu`
    Gpu,
    /// `--container-device`
    Device,
    /// `--container-pull`
    Pull,
    /// `--container-batch`
    Batch,
    /// `--container-mpi`
    Mpi,
    /// `--container-module`
    Module,
}

/// One option: its name, its value, its text.
#[derive(Debug)]
pub struct Spec {
    /// Which one.
    pub opt: Opt,
    /// Its long name without `--`. Never `container`, `container-id`, `container-type`: those are Slurm's.
    pub name: &'static str,
    /// The placeholder of its value; None for a flag.
    pub value: Option<&'static str>,
    /// Whether it may be given more than once.
    pub repeatable: bool,
    /// One line for `srun --help`, lower case, no full stop.
    pub usage: &'static str,
    /// Sentences for the man page.
    pub text: &'static str,
}

/// All options, in the order of the documentation.
pub const TABLE: &[Spec] = &[
    Spec {
        opt: Opt::Image,
        name: "container-image",
        value: Some("REF|PATH|none"),
        repeatable: false,
        usage: "run the tasks in this container image: a reference (ubuntu:24.04), the path of a SquashFS file, or none",
        text: "Runs every task of the step inside this image. REF is a reference by Docker's rules, or by Enroot's \
               ([USER@][REGISTRY#]IMAGE[:TAG]); it is looked up in the user's and then the system's repository \
               when the job is submitted, and pinned to its digest. A value that begins with '/', './' or \
               '../' is the path of a SquashFS file; 12 or more digits of a digest name an image, too. 'none' makes a step of a containerised job run on the host.",
    },
    Spec {
        opt: Opt::Mount,
        name: "mount",
        value: Some("SPEC"),
        repeatable: true,
        usage: "mount into the container: type=bind|tmpfs|squashfs|scratch,source=SRC,destination=DST[,readonly][,...] or SRC[:DST[:FLAG+...]]; may be repeated",
        text: "Mounts something in the container. The type is 'bind', which is the default: a file or directory of \
               the host, with all that is mounted below it ('recursive=false' asks for the directory alone, and is \
               refused where something is mounted below it); 'tmpfs': an \
               empty directory in memory (size=SIZE, mode=OCTAL, huge=never|always|within_size|advise), the user's, with \
               mode 0700 and the site's limit unless said; 'squashfs': a SquashFS file of the host, such as a data \
               set, as a read-only directory; 'scratch': an empty directory on the node's own disk (size=SIZE), \
               private to the step, for many small files, where the site offers it; or 'umount': whatever the \
               site or a default would mount there is left out. A step has at most 32 tmpfs, 16 SquashFS files \
               and 4 scratch directories. Sources are opened with \
               the user's permissions; a relative one is taken from the submitting directory. A missing \
               destination is made, but not in what is the host's (home, the job's directory, /tmp, the site's \
               mounts) or in a SquashFS file: there it must exist. Nothing is mounted on '/' or '/dev', or below \
               /proc and /sys. 'readonly' and 'noexec' restrict it; 'optional' leaves the mount out where \
               its source is missing. Synonyms: src for source; dst and target for destination; ro for readonly. \
               A field with a comma in it is put in double quotes. The short form takes flags joined by '+', for \
               example /data:/input:ro+optional.",
    },
    Spec {
        opt: Opt::Mounts,
        name: "container-mounts",
        value: Some("SRC[:DST[:FLAG+...]],..."),
        repeatable: true,
        usage: "the short form of --mount, several of them with commas between, as Pyxis has it; SRC may be tmpfs or umount",
        text: "Several mounts in the short form of --mount, with commas between; one with a comma in it is put in \
               double quotes. The sources 'tmpfs' and 'umount' stand for the types of that name: \
               tmpfs:/scratch:size=1g+mode=1777, umount:/tmp. The flags 'rbind', 'bind', 'rw', 'nosuid', 'nodev', \
               'private', 'rprivate', 'slave', 'rslave' and 'x-create=...' of Pyxis are accepted; all but 'bind' \
               (not recursive) say what holds anyway. 'nofail' is 'optional', 'norec' is 'bind'; 'sqsh' makes SRC a \
               SquashFS file: data.sqsh:/data:sqsh.",
    },
    Spec {
        opt: Opt::WritableVolatile,
        name: "writable-volatile",
        value: Some("DIR[,DIR...]"),
        repeatable: true,
        usage: "make directories of the image writable for this step; changes vanish afterwards; may be repeated",
        text: "The directory keeps its contents, owners and permissions, and the user may change, add and delete \
               everything in it. The tasks of a node share it. All changes are gone when the step ends.",
    },
    Spec {
        opt: Opt::MountHome,
        name: "container-mount-home",
        value: None,
        repeatable: false,
        usage: "bind the home directory at its own path (default: the site's choice, normally on)",
        text: "Binds the user's home directory at its own path.",
    },
    Spec {
        opt: Opt::NoMountHome,
        name: "no-container-mount-home",
        value: None,
        repeatable: false,
        usage: "do not bind the home directory",
        text: "Leaves the user's home directory out of the container.",
    },
    Spec {
        opt: Opt::MountWorkdir,
        name: "container-mount-workdir",
        value: None,
        repeatable: false,
        usage: "bind the job's working directory at its own path (default: the site's choice, normally on)",
        text: "Binds the job's working directory at its own path and starts the tasks there.",
    },
    Spec {
        opt: Opt::NoMountWorkdir,
        name: "no-container-mount-workdir",
        value: None,
        repeatable: false,
        usage: "do not bind the job's working directory; tasks start in the image's WorkingDir",
        text: "Leaves the job's working directory out; tasks start in the image's WorkingDir.",
    },
    Spec {
        opt: Opt::Workdir,
        name: "container-workdir",
        value: Some("DIR"),
        repeatable: false,
        usage: "start the tasks in this directory of the container; it must exist there",
        text: "Starts the tasks in this directory of the container, instead of the job's working directory or the \
               image's WorkingDir. It must exist, in the image or in a mount.",
    },
    Spec {
        opt: Opt::Env,
        name: "container-env",
        value: Some("NAME[=VALUE],..."),
        repeatable: true,
        usage: "variables whose value in the job wins over the image's (NAME), or that are set (NAME=VALUE); may be repeated",
        text: "NAME alone: the job's value is kept, whatever image and site say, and also where Grus would drop it. \
               NAME=VALUE sets it. This has the last word. A field with a comma in it is put in double quotes.",
    },
    Spec {
        opt: Opt::Writable,
        name: "container-writable",
        value: None,
        repeatable: false,
        usage: "make the whole container writable for this step; changes vanish afterwards (default: the site's choice, normally read-only)",
        text: "The whole image can be changed by the user, as with --writable-volatile for every directory. The \
               tasks of a node share the changes; they are gone when the step ends, unless the container has a \
               name (--container-name) or is saved (--container-save). The launch takes longer the more files \
               the image has, about half a second for 10,000; more than 500,000 are refused: open the directories \
               that change with --writable-volatile.",
    },
    Spec {
        opt: Opt::Readonly,
        name: "container-readonly",
        value: None,
        repeatable: false,
        usage: "keep the container read-only, whatever the site's default",
        text: "Keeps the image read-only where the site's default is a writable container.",
    },
    Spec {
        opt: Opt::Name,
        name: "container-name",
        value: Some("NAME[:auto|create|exec|no_exec] | JOBID.STEPID"),
        repeatable: false,
        usage: "keep the container, with its changes, for later steps of the job under this name; or join the container of a running step",
        text: "A named container is writable, and its changes live on each node until the job ends. The first step \
               that gives the name makes it of --container-image; later ones, also while it is in use, take it as \
               it is, each with its own mounts. 'create' refuses a name that is taken, 'exec' one that is not; \
               'no_exec' is the same as 'auto', the default. JOBID.STEPID is the container of a step of your own \
               that runs on the same node: it is joined as it is, and of other options --container-workdir and \
               --container-env alone have an effect.",
    },
    Spec {
        opt: Opt::Save,
        name: "container-save",
        value: Some("FILE"),
        repeatable: false,
        usage: "when the step has ended, write the container as it is then to this SquashFS file",
        text: "Writes the container's file system, with its changes and without what is mounted in it, as a new image \
               when the last task of the step's first node has ended. FILE appears at once and whole; a file of that \
               name is replaced by it, a directory or a link is never touched. The image's configuration goes with \
               it, in FILE with .json for its ending (app.squashfs: app.json). On an #SBATCH line each step saves, \
               and the last one stays. Without a writable container it is a copy of the image. \
               Files that you may not read come from the image; one that the image does not have is left out, \
               with a warning. A step that is cancelled or killed is not saved. What goes wrong is told on \
               standard error; the step's exit code is that of its tasks.",
    },
    Spec {
        opt: Opt::RemapRoot,
        name: "container-remap-root",
        value: None,
        repeatable: false,
        usage: "show the user as root (uid 0) in the container (default: the site's choice, normally not)",
        text: "The tasks run in a user namespace in which the user is root, for programs that insist on it, such as \
               package managers. No right is gained: files are opened and made with the user's own id, mounts, \
               network and host name are the node's, and setuid programs stay inert. Changes of owner and of \
               identity appear to succeed and do nothing. Files of the image that belong to root or others are \
               shown as nobody's; what the user's groups may do stays as it is. It is refused on nodes that give \
               users no user namespaces. PMIx does not know the remapped user; --mpi=pmi2 does.",
    },
    Spec {
        opt: Opt::NoRemapRoot,
        name: "no-container-remap-root",
        value: None,
        repeatable: false,
        usage: "do not show the user as root",
        text: "Leaves the user's id as it is where the site's default is to remap it.",
    },
    Spec {
        opt: Opt::Entrypoint,
        name: "container-entrypoint",
        value: None,
        repeatable: false,
        usage: "start each task through the image's ENTRYPOINT, as Docker does (default: the site's choice, normally not)",
        text: "Each task runs the image's ENTRYPOINT with the command as its arguments, as 'docker run' does. An \
               ENTRYPOINT that is no absolute path is looked up in the container's PATH. Before Slurm 23.11, the \
               site's TaskProlog and 'srun --task-prolog' are left out for such tasks.",
    },
    Spec {
        opt: Opt::NoEntrypoint,
        name: "no-container-entrypoint",
        value: None,
        repeatable: false,
        usage: "do not run the image's ENTRYPOINT",
        text: "Runs the command itself where the site's default is to go through the ENTRYPOINT.",
    },
    Spec {
        opt: Opt::EntrypointLog,
        name: "container-entrypoint-log",
        value: None,
        repeatable: false,
        usage: "accepted as Pyxis has it: what an ENTRYPOINT prints is always shown",
        text: "Accepted for scripts written for Pyxis. The ENTRYPOINT is part of the task here, so what it prints is \
               always in the task's output.",
    },
    Spec {
        opt: Opt::Unshare,
        name: "container-unshare",
        value: Some("net|ipc|uts,..."),
        repeatable: false,
        usage: "give the container namespaces of its own: net (no network but loopback), ipc, uts",
        text: "The tasks of a node share these new namespaces: 'net' has a loopback device only, 'ipc' its own System \
               V IPC and POSIX message queues (/dev/shm stays the node's), 'uts' a host name of its own, which is \
               the node's and does not follow when that changes. They belong to the node: no task can change them. \
               Without the network MPI between nodes does not work, nor does --mpi=pmix; --mpi=pmi2 on one node \
               does.",
    },
    Spec {
        opt: Opt::Slurm,
        name: "container-slurm",
        value: None,
        repeatable: false,
        usage: "make the host's srun, sbatch, squeue, scancel and the like usable in the container",
        text: "Brings the host's srun, sbatch, salloc, sattach, sbcast, scancel, squeue, sinfo, scontrol, sacct and sstat into \
               the container, run by the host's own loader and libraries, so \
               that they work whatever the image's libc. They are in /run/grus/slurm/bin, which is put at the end \
               of PATH. The image must have a /bin/sh. What they start gets the container's environment, as with \
               any srun; images must have been pulled before.",
    },
    Spec {
        opt: Opt::NoSlurm,
        name: "no-container-slurm",
        value: None,
        repeatable: false,
        usage: "do not bring the host's Slurm commands in",
        text: "Leaves the host's Slurm commands out where the site's default is to bring them in.",
    },
    Spec {
        opt: Opt::Gpu,
        name: "container-gpu",
        value: Some("auto|all|none"),
        repeatable: false,
        usage: "which GPUs the container gets with their driver: those Slurm gave the step, as far as the image wants them (auto), all of those or no launch (all), none (default: the site's choice, normally auto)",
        text: "What a GPU needs in the container, its driver's files above all, is told by the node's CDI files. 'auto' \
               takes the GPUs that Slurm gave the step (--gpus, --gres); NVIDIA_VISIBLE_DEVICES of the image chooses \
               among them, and NVIDIA_DRIVER_CAPABILITIES chooses parts of NVIDIA's driver. Without GPUs, and on \
               nodes without any, it does nothing; what is missing is told by a warning. 'all' takes each that Slurm \
               gave, whatever the image says, and where Slurm keeps no account of GPUs those of the node; what cannot \
               be had is an error. 'none' brings no driver in. CUDA_VISIBLE_DEVICES and the like stay as Slurm sets \
               them, for each task.",
    },
    Spec {
        opt: Opt::Device,
        name: "container-device",
        value: Some("VENDOR/CLASS=NAME|PATH,..."),
        repeatable: true,
        usage: "devices of the node that the container gets, by their CDI names (nvidia.com/gpu=0) or as device nodes (/dev/fuse); may be repeated",
        text: "A CDI name brings in what the node's CDI files say of that device: device nodes, files, links, \
               variables. Of GPUs only those can be named that Slurm gave the step, where it gave some; 'all' is each \
               of them. A PATH is a device node that you may open. A device that a node does not have, or that does not \
               fit the image, is an error.",
    },
    Spec {
        opt: Opt::Pull,
        name: "container-pull",
        value: Some("missing|never|always"),
        repeatable: false,
        usage: "whether the image is pulled when the job is submitted (default: the site's choice, normally missing)",
        text: "Decides what happens at submission, on the submitting host and as the user: 'missing' pulls an \
               image that is in no repository, 'always' asks the registry each time, 'never' refuses.",
    },
    Spec {
        opt: Opt::Batch,
        name: "container-batch",
        value: None,
        repeatable: false,
        usage: "run the batch script itself in the container too (default: it stays on the host, its steps inherit)",
        text: "The script of sbatch normally runs on the host, where srun and modules work, and each srun in it \
               inherits the container. With this option the script itself runs inside. So does the shell of salloc, \
               where Slurm starts it as a step (use_interactive_step).",
    },
    Spec {
        opt: Opt::Mpi,
        name: "container-mpi",
        value: Some("auto|host|image|fabric|STACK"),
        repeatable: false,
        usage: "whose MPI the tasks use: the host's where it is proved to fit (auto), the host's or no launch (host, or a stack's name), the image's (image), the image's on the host's libfabric (fabric)",
        text: "The host's MPI stacks are described by the administrator ('grus host scan'). Which libraries of a \
               stack replace which of the image's is decided by their symbols and versions, and proved before any \
               task starts: 'auto' takes the first stack that fits and otherwise keeps the image's MPI, on the \
               host's libfabric if that fits; 'host' and the name of a stack refuse what does not fit; 'image' \
               changes nothing; 'fabric' replaces libfabric alone. 'grus explain IMAGE' tells what would be done \
               and why. A step of several tasks whose --mpi= the MPI in use does not understand is refused; with \
               --mpi=none it is refused, too, or warned of where the choice is 'auto'.",
    },
    Spec {
        opt: Opt::Module,
        name: "container-module",
        value: Some("NAME[,NAME...]|none"),
        repeatable: false,
        usage: "bring in these modules of the site; with none, no others: none alone, or none,NAME",
        text: "Modules are what the site has put together for a fabric or a service: libraries, binds and variables. Some \
               come by themselves: always, where the node has a device, or where the image has a file. Others come \
               where they are named here. \
               What is named is had as a whole, or there is no container. 'none' leaves out those that would come by \
               themselves; none,NAME has NAME alone. 'grus plan IMAGE' shows which a container has.",
    },
];

/// The row of an option.
pub fn spec(opt: Opt) -> &'static Spec {
    // The table has a row for each variant; a test proves it.
    TABLE.iter().find(|s| s.opt == opt).unwrap_or(&TABLE[0])
}

/// The row of a name.
pub fn by_name(name: &str) -> Option<&'static Spec> {
    TABLE.iter().find(|s| s.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_one_row_and_none_is_slurms() {
        for row in TABLE {
            assert_eq!(spec(row.opt).name, row.name);
            assert_eq!(TABLE.iter().filter(|r| r.name == row.name).count(), 1);
            assert!(!["container", "container-id", "container-type"].contains(&row.name));
        }
    }
}
