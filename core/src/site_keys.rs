//! Every key of grus.toml, once: name, default and text. The shipped `slurm-conf/grus.toml` and the key
//! section of grus.toml(5) are made from this table.

/// One key.
#[derive(Debug)]
pub struct Key {
    /// `section.name`.
    pub name: &'static str,
    /// The default, as TOML text.
    pub default: &'static str,
    /// What it does, in sentences.
    pub text: &'static str,
}

/// All keys in the order of the file.
pub const KEYS: &[Key] = &[
    Key {
        name: "repository.user",
        default: "\"{home}/.local/share/grus\"",
        text: "Where each user's images are. {user}, {home} and {uid} are filled in; ${NAME} is a variable of the \
               user's environment at submission. Choose a file system that login and compute nodes share and that \
               likes large files, for example \"/scratch/{user}/.grus\"; quotas count. To let users choose, write \"${GRUS_HOME}\" and set that \
               variable for everybody, for example in /etc/profile.d: where it is unset, submission is refused. \
               GRUS_REPOSITORY is another thing: grus reads it, srun does not.",
    },
    Key {
        name: "repository.system",
        default: "\"\"",
        text: "The system repository, for everyone. Images here that only root can write are mounted by the \
               kernel. Empty: there is none.",
    },
    Key {
        name: "pull.policy",
        default: "\"missing\"",
        text: "What srun, sbatch and salloc do at submission: \"missing\" pulls an image that is in no repository, \
               \"never\" refuses, \"always\" asks the registry each time. The default of --container-pull.",
    },
    Key {
        name: "pull.command",
        default: "\"/usr/bin/grus\"",
        text: "The grus program, of the plugin's release, on all machines. As the user it pulls and looks at MPIs at submission, \
               and saves containers on nodes; without any rights it checks images there (node-cache.dir, user-images = \
               \"kernel\").",
    },
    Key {
        name: "pull.plain-http",
        default: "[]",
        text: "Registries (\"host:port\") that may be spoken to over plain HTTP. Loopback addresses may always.",
    },
    Key {
        name: "mounts.home",
        default: "true",
        text: "Whether the user's home directory is bound at its own path.",
    },
    Key {
        name: "mounts.workdir",
        default: "true",
        text: "Whether the job's working directory is bound at its own path.",
    },
    Key { name: "mounts.tmp", default: "true", text: "Whether the node's /tmp is bound." },
    Key {
        name: "mounts.site",
        default: "[]",
        text: "Binds that every container gets, in the grammar of --mount, for example \
               [\"type=bind,source=/scratch,destination=/scratch\", \"/opt/site:/opt/site:ro\"]. One whose source \
               is missing on a node is left out there.",
    },
    Key {
        name: "container.writable",
        default: "false",
        text: "Whether the whole container is writable for a step, its changes gone afterwards. The default of \
               --container-writable.",
    },
    Key {
        name: "container.remap-root",
        default: "false",
        text: "Whether users are shown as root in containers. The default of --container-remap-root.",
    },
    Key {
        name: "container.entrypoint",
        default: "false",
        text: "Whether tasks go through the image's ENTRYPOINT. The default of --container-entrypoint.",
    },
    Key {
        name: "container.slurm",
        default: "false",
        text: "Whether the host's Slurm commands are brought into containers. The default of --container-slurm.",
    },
    Key {
        name: "container.gpu",
        default: "\"auto\"",
        text: "Which GPUs containers get with their driver: \"auto\", those that Slurm gave the step, as far as the image \
               wants them; \"all\", all of those; \"none\". What --container-gpu is where it is not given; but \"all\" \
               here is never an error: what cannot be had is a warning, and without a grant of Slurm's there is none.",
    },
    Key {
        name: "slurm.commands",
        default: "\"/usr/bin\"",
        text: "Where srun and its like are on the nodes, for --container-slurm. Where this is not below /usr, it is \
               bound at its own path.",
    },
    Key {
        name: "slurm.mounts",
        default: "[]",
        text: "What else the commands of --container-slurm look for by its absolute path, such as a plugin directory. \
               Bound read-only at their own paths, as far as a node has them, are always: /etc/slurm, /etc/grus, \
               /run/slurm, /run/munge, /var/run/munge, the system repository, and Slurm's plugin directories of \
               Debian and of Red Hat.",
    },
    Key {
        name: "slurm.user",
        default: "\"slurm\"",
        text: "SlurmUser of slurm.conf. The commands of --container-slurm look this user up, so the node's line of \
               it in /etc/passwd, and that of root, are in the container's passwd.",
    },
    Key {
        name: "slurm.library-path",
        default: "[]",
        text: "Directories of the nodes with the libraries of these commands and of Slurm's plugins. Empty: the \
               usual ones below /usr, /lib and /lib64.",
    },
    Key {
        name: "volatile.size",
        default: "\"50%\"",
        text: "How much one step's volatile directories may hold on a node together: bytes with k, m, g or t, or, \
               without volatile.dir, a percentage of the node's memory.",
    },
    Key {
        name: "volatile.dir",
        default: "\"\"",
        text: "A directory on the node's own disk in which changes of volatile directories lie, in a file without \
               a name that is gone with the step; scratch.mkfs makes a file system of it, which adds some \
               milliseconds to a launch. volatile.size must then be in bytes. Empty: changes are in memory.",
    },
    Key {
        name: "tmpfs.size-limit",
        default: "\"50%\"",
        text: "How much memory the mounts of type=tmpfs of one step may hold on a node together: bytes with k, m, \
               g or t, or a percentage of the node's memory. Those that name no size share evenly what the others \
               leave.",
    },
    Key {
        name: "scratch.dir",
        default: "\"\"",
        text: "A directory on the node's own disk, with space for mounts of type=scratch. Each is a file without a \
               name, sparse and gone with the step, and in it a file system of the user's own. The space is not \
               reserved. The disk's file system must know O_TMPFILE: ext4, xfs, btrfs and tmpfs do. Empty: there is \
               no scratch.",
    },
    Key {
        name: "scratch.size-limit",
        default: "\"100g\"",
        text: "How much the mounts of type=scratch of one step may hold on a node together, in bytes with k, m, g \
               or t.",
    },
    Key {
        name: "scratch.mkfs",
        default: "\"/sbin/mkfs.ext4\"",
        text: "The mkfs.ext4 program. It must be owned by root and not writable by others.",
    },
    Key {
        name: "named.dir",
        default: "\"/run/grus\"",
        text: "Where slurmstepd notes the containers that jobs keep on this node (--container-name): a directory of \
               the node's own that root alone can write, best on a tmpfs. It is made if it is missing. Each job \
               has a mount in it, which the job's end removes.",
    },
    Key {
        name: "environment.set",
        default: "{}",
        text: "Variables set in every container, for example { SITE = \"alps\" }.",
    },
    Key {
        name: "environment.prepend",
        default: "{}",
        text: "Text put before a variable's value, with a ':' between.",
    },
    Key {
        name: "environment.append",
        default: "{}",
        text: "Text put after a variable's value, with a ':' between.",
    },
    Key {
        name: "environment.unset",
        default: "[]",
        text: "Variables of the host that do not enter containers; a trailing '*' matches any ending.",
    },
    Key {
        name: "environment.keep",
        default: "[]",
        text: "Variables that Grus would drop since they name host files (LD_LIBRARY_PATH, LD_PRELOAD, PYTHONPATH \
               and the like), kept all the same.",
    },
    Key {
        name: "mpi.default",
        default: "\"auto\"",
        text: "Whose MPI containers use: \"auto\", \"host\", \"image\", \"fabric\" or the name of a host stack. The \
               default of --container-mpi. The stacks are the files of stacks/ beside this file, in the order of \
               their names; 'grus host scan' writes them. Keep them alike on login and compute nodes: a node with \
               others decides for itself, which takes longer.",
    },
    Key {
        name: "mpi.glibc",
        default: "\"never\"",
        text: "Whether glibc may come from the host: \"never\", or \"auto\", as a whole, where a host library needs a \
               newer one than the image has.",
    },
    Key {
        name: "mpi.verify",
        default: "true",
        text: "Whether each node asks the image's own loader, as the user and before tasks start, whether it finds \
               what was proved. It takes a few milliseconds where libraries are swapped, and nothing elsewhere.",
    },
    Key {
        name: "cdi.dirs",
        default: "[]",
        text: "Directories of CDI files, *.json and *.yaml, which describe the node's devices: 'nvidia-ctk cdi generate' \
               and the like write them. Later directories win. Files that others than root can write are not used. \
               Empty: /etc/cdi and then /var/run/cdi.",
    },
    Key {
        name: "security.user-images",
        default: "\"fuse\"",
        text: "How images that a user can write are mounted. \"fuse\": by squashfuse_ll as that user. \"kernel\": by the \
               kernel's SquashFS, after a check by pull.command, which root alone must be able to write; a user can \
               change the file after it, so the site then trusts its users with a kernel parser. \"refuse\": not at all. \
               Images that root alone can write (the file, and every directory above it) are always mounted by the \
               kernel, if they are on a file system of the node's own, or in the system repository.",
    },
    Key {
        name: "security.seccomp",
        default: "\"none\"",
        text: "Which system calls tasks in containers lack: \"none\", or \"default\", those that reach deep into the \
               kernel and that programs for computing rarely need: keys (keyctl), bpf, perf_event_open, userfaultfd, \
               io_uring, mounts, modules and kexec, and all calls of another architecture, such as 32-bit programs'. \
               They fail with ENOSYS. libfabric's FI_MR_CACHE_MONITOR=userfaultfd does not work with \"default\". \
               no_new_privs is always set.",
    },
    Key {
        name: "security.squashfuse",
        default: "\"/usr/bin/squashfuse_ll\"",
        text: "The squashfuse_ll program. It must be owned by root and not writable by others.",
    },
    Key {
        name: "node-cache.dir",
        default: "\"\"",
        text: "A directory on the node's own disk for copies of users' images, which the kernel then mounts: as fast as \
               the system repository's, from the second launch on a node. A copy is root's, named by its content, \
               and used only after 'grus verify' (pull.command), run without any rights, has found nothing in it that \
               a kernel parser should not meet; other images are served as security.user-images says. It matters \
               with \"fuse\" only. The directory must be there, for root alone (mkdir -m 0700); GRUS_CACHE in the journal \
               tells why a launch had no copy. A launch that makes a copy waits for it, at most 30 s. Empty: there is \
               no cache.",
    },
    Key {
        name: "node-cache.size",
        default: "\"100g\"",
        text: "How much the node's cache may hold, in bytes with k, m, g or t. The copies used least recently make \
               room; those in use stay.",
    },
    Key {
        name: "signatures.policy",
        default: "\"\"",
        text: "A containers-policy.json(5) that every pull obeys, for example \"/etc/containers/policy.json\". A user's \
               own policy (~/.config/containers/policy.json, else /etc/containers/policy.json) counts as well, and can \
               only add to it. 'grus --system pull' is bound by it; what users put into their own repositories \
               by other ways than a pull is not. Empty: the user's policy alone counts, if there is one.",
    },
    Key {
        name: "batch.container",
        default: "false",
        text: "Whether batch scripts run inside the container themselves. The default of --container-batch. Where it is true, a \
               script that is to be on the host needs --container-image=none, and its steps their images.",
    },
];

/// What a `[module.NAME]` may hold.
pub const MODULE_KEYS: &[Key] = &[
    Key { name: "about", default: "\"\"", text: "What it is for, in a line." },
    Key {
        name: "when",
        default: "\"on request\"",
        text: "When a container gets it: \"on request\" where --container-module names it, \"always\", \"if device present\" on \
               nodes with one of its devices, \"if image has\" where the image has one of the paths of image-has.",
    },
    Key {
        name: "devices",
        default: "[]",
        text: "Devices of the node, one of which must be there. /dev is in every container; these are conditions only.",
    },
    Key {
        name: "image-has",
        default: "[]",
        text: "Paths of the image, one of which must be there.",
    },
    Key {
        name: "binds",
        default: "[]",
        text: "Binds in the grammar of --mount. A source that a node lacks is left out there, unless the module was asked \
               for by name: then it is an error, but for binds with 'optional'.",
    },
    Key {
        name: "libraries",
        default: "\"\"",
        text: "The name of a host stack (mpi.default tells of them) whose libraries take the place of the image's where \
               they are proved to fit. It comes before mpi.default and --container-mpi=auto; any other --container-mpi comes \
               before it, and together with a module that was asked for and brings another stack it is an error. Where it \
               does not fit, a module that was asked for is refused, and one that comes by itself is left out with a \
               warning; quietly where the image has neither MPI nor libfabric.",
    },
    Key {
        name: "environment",
        default: "{}",
        text: "Variables, as in [environment]: set, prepend, append, unset, keep. They are above the image's and below \
               those of [environment].",
    },
    Key {
        name: "conflicts",
        default: "[]",
        text: "Modules it cannot be together with. One that comes by itself gives way to one that was asked for, and \
               to one whose name comes earlier.",
    },
];

/// What modules are.
pub const MODULES: &str =
    "A [module.NAME] holds what containers get together, for a fabric or a service of the site: binds, \
    libraries and variables. Users ask for modules by --container-module; others come by themselves. Examples to copy: \
    /usr/share/doc/grus/grus.d.";

/// The shipped, annotated `grus.toml`: every key with its text, commented out at its default.
pub fn annotated_file() -> String {
    let mut out = String::from(
        "# Configuration of Grus: /etc/grus/grus.toml, then /etc/grus/grus.d/*.toml in order of name.\n\
         # Every key is shown with its default. A later value replaces an earlier one, a later list is added to it.\n\
         # The files must belong to root and be writable by root alone.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (of, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if of != section {
            section = of;
            out.push_str(&format!("\n[{section}]\n"));
        }
        out.push('\n');
        for line in wrapped(key.text, 98) {
            out.push_str(&format!("# {line}\n"));
        }
        out.push_str(&format!("#{name} = {}\n", key.default));
    }
    out.push_str("\n# Modules\n#\n");
    for line in wrapped(MODULES, 98) {
        out.push_str(&format!("# {line}\n"));
    }
    for key in MODULE_KEYS {
        let text = format!("{} = {}: {}", key.name, key.default, key.text);
        out.push_str("#\n");
        out.extend(wrapped(&text, 98).iter().map(|line| format!("# {line}\n")));
    }
    out
}

/// Words in lines of at most `width` characters.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
