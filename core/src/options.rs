//! The one table of options: the plugin registers it, `--help`, the man page and `grus plan` are made from
//! it, and [`crate::request`] gives each its meaning.

/// Every option Grus adds to srun, sbatch and salloc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opt {
    /// `--container-image`
    Image,
    /// `--mount`
    Mount,
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
    /// `--container-pull`
    Pull,
    /// `--container-batch`
    Batch,
    /// `--container-mpi`
    Mpi,
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
        text: "Runs every task of the step inside this image. REF is a reference by Docker's rules; it is looked \
               up in the user's and then the system's repository when the job is submitted, and pinned to its \
               digest. A value that begins with '/' or '.' is the path of a SquashFS file. 'none' makes a step \
               of a containerised job run on the host.",
    },
    Spec {
        opt: Opt::Mount,
        name: "mount",
        value: Some("SPEC"),
        repeatable: true,
        usage: "bind a host file or directory into the container: type=bind,source=SRC,destination=DST[,readonly] or SRC[:DST[:ro]]; may be repeated",
        text: "Binds a file or directory of the host. The source is opened with the user's permissions; a relative \
               one is taken from the submitting directory. A missing destination is made. Synonyms: src for \
               source; dst and target for destination; ro for readonly. A field with a comma in it is put in \
               double quotes.",
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
               inherits the container. With this option the script itself runs inside.",
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
               and why. A step whose --mpi= the MPI in use does not understand is refused.",
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
