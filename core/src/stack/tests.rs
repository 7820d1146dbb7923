use super::*;
use crate::elf::Symbols;

const GOOD: &str = r#"
format = 1
description = "a test"
machine = "x86_64"
devices = ["/dev/cxi*"]

[[mpi]]
family = "mpich"
version = "MPICH 4.2"
pmi = ["pmi2"]

[[path]]
path = "/opt/mpich/lib/prov"
with = "fabric"
optional = true

[environment.set]
FI_PROVIDER_PATH = "/opt/mpich/lib/prov"

[[library]]
path = "/opt/mpich/lib/libmpi.so.12.3"
role = "mpi"
soname = "libmpi.so.12"
needed = ["libfabric.so.1"]
runpath = ["$ORIGIN"]
requires."libc.so.6" = ["GLIBC_2.17"]
data = "MPI_UNWEIGHTED:8"
exports = """
[P]MPI_Init
[P]MPI_Comm_rank
"""

[[library]]
path = "/opt/mpich/lib/libfabric.so.1"
role = "fabric"
soname = "libfabric.so.1"
provides = ["FABRIC_1.0"]
"#;

#[test]
fn a_profile_is_read_and_written_the_same() {
    let stack = Stack::parse("mpich", GOOD).expect("good");
    assert_eq!(stack.label(), "'mpich' (MPICH 4.2)");
    assert!(stack.library[0].object.exports.contains("PMPI_Init"));
    assert_eq!(stack.library_named("libmpi.so.12.3").map(Library::soname), Some("libmpi.so.12"));
    assert_eq!(Stack::parse("mpich", &stack.to_toml()).expect("own text"), stack);
}

#[test]
fn long_lists_are_wrapped() {
    let mut stack = Stack::parse("mpich", GOOD).expect("good");
    stack.library[1].object.provides = (0..80).map(|n| format!("FABRIC_1.{n}")).collect();
    stack.library[0].object.exports = Symbols::new(
        (0..300)
            .map(|n| format!("MPI_Function_{n}"))
            .chain(["MPI_Init", "PMPI_Init", "MPI_Comm_rank", "PMPI_Comm_rank"].map(str::to_owned)),
    );
    let text = stack.to_toml();
    assert!(text.lines().all(|l| l.len() <= 102), "{text}");
    assert_eq!(Stack::parse("mpich", &text).expect("own text"), stack);
}

/// What is replaced in the good one, and by what.
const HOSTILE_STACKS: &[(&str, &str, &str)] = &[
    ("format = 1", "format = 2", "it has format 2, newer than this Grus knows"),
    ("format = 1", "", "it must say 'format = 1'"),
    ("machine =", "machin =", "unknown key 'machin'; did you mean 'machine'?"),
    ("soname =", "so-name =", "unknown key 'so-name' in library; did you mean 'soname'?"),
    ("optional", "optinal", "unknown key 'optinal' in path; did you mean 'optional'?"),
    ("environment.set", "environment.sett", "unknown key 'sett' in environment; did you mean 'set'?"),
    (
        "\"mpich\"",
        "\"mpic\"",
        "[[mpi]] mpic: unknown variant `mpic`, expected one of `mpich`, `openmpi`, `abi`",
    ),
    (
        "role = \"fabric\"",
        "role = \"fast\"",
        "[[library]] /opt/mpich/lib/libfabric.so.1: unknown variant `fast`",
    ),
    ("x86_64", "x68", "machine 'x68' is not known; 'uname -m' tells it"),
    (
        "[P]MPI_Init",
        "[P]MPI_Ini[t",
        "[[library]] /opt/mpich/lib/libmpi.so.12.3: '[P]MPI_Ini[t' is not a symbol",
    ),
    (
        "[P]MPI_Init",
        "",
        "[[mpi]] MPICH 4.2: it needs exactly one library of role \"mpi\" that exports the MPICH ABI",
    ),
    ("pmi = [\"pmi2\"]", "pmi = []", "[[mpi]] MPICH 4.2: pmi must name a launch method"),
    ("/dev/cxi*", "/etc/passwd", "the device /etc/passwd is not below /dev"),
    ("FI_PROVIDER_PATH =", "LD_PRELOAD =", "the variable LD_PRELOAD is not a profile's to set"),
    (
        "path = \"/opt/mpich/lib/libfabric.so.1\"",
        "path = \"libfabric.so.1\"",
        "[[library]] libfabric.so.1: 'libfabric.so.1' is not an absolute path",
    ),
    ("\"libfabric.so.1\"\nprovides", "\"libmpi.so.12\"\nprovides", "two libraries are called libmpi.so.12"),
    (
        "soname = \"libfabric.so.1\"",
        "soname = \"../x\"",
        "/opt/mpich/lib/libfabric.so.1: the SONAME '../x' is no file name",
    ),
    ("pmi = [", "pmi = ", "line 10: "),
];

#[test]
fn what_is_wrong_is_named() {
    let with = |from: &str, to: &str| GOOD.replacen(from, to, 1);
    let altered = HOSTILE_STACKS.iter().map(|(from, to, why)| (with(from, to), *why));
    let whole = [
        ("format = 1\nmachine = \"x86_64\"\nlibrary = 1".into(), "write library as [[library]]"),
        ("format = 1\nmachine = \"x86_64\"".into(), "it must list between 1 and 1000 libraries"),
    ];
    for (text, why) in altered.chain(whole) {
        let refusal = Stack::parse("x", &text).expect_err(why);
        let start = "the host profile x.toml is wrong: ";
        assert!(refusal.what.strip_prefix(start).is_some_and(|w| w.starts_with(why)), "{refusal}\n{why}");
        assert!(refusal.hint.is_some() && !refusal.what.contains('\n'));
    }
}

#[test]
fn names_that_mean_something_else_are_refused() {
    for name in ["auto", "host", "image", "fabric", "", "Cray", "a/b", ".x", "-x", &"x".repeat(65)] {
        assert!(Stack::parse(name, GOOD).is_err(), "{name}");
    }
}

#[test]
fn roles_by_name() {
    let empty = Object::default();
    for (name, role) in [
        ("libmpi.so.12", Role::Mpi),
        ("libopen-pal.so.80", Role::Mpi),
        ("libfabric.so.1", Role::Fabric),
        ("libucp.so.0", Role::Fabric),
        ("libuct_ib.so.0", Role::Plugin),
        ("libverbs-1.12-fi.so", Role::Plugin),
        ("libmlx5-rdmav34.so", Role::Plugin),
        ("libmlx5.so.1", Role::Fabric),
        ("libpmix.so.2", Role::Pmi),
        ("libhwloc.so.15", Role::Shared),
        ("libstdc++.so.6", Role::Shared),
        ("libc.so.6", Role::Glibc),
        ("ld-linux-x86-64.so.2", Role::Glibc),
        ("libmvec.so.1", Role::Glibc),
        ("libcurl.so.4", Role::Shared),
        ("libm17n.so.0", Role::Shared),
    ] {
        assert_eq!(role_of(name, &empty), role, "{name}");
    }
}

/// Every profile in slurm-conf/stacks loads, says that it is an example, and is written the same.
#[test]
fn the_shipped_examples_load() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../slurm-conf/stacks");
    let mut names = vec![];
    for entry in std::fs::read_dir(dir).expect("slurm-conf/stacks exists").flatten() {
        let name = entry.file_name().into_string().expect("UTF-8");
        let Some(name) = name.strip_suffix(".toml") else { continue };
        let text = std::fs::read_to_string(entry.path()).expect("readable");
        let stack = Stack::parse(name, &text).unwrap_or_else(|e| panic!("{e}"));
        assert!(stack.example, "{name} must say that it is an example");
        assert_eq!(Stack::parse(name, &stack.to_toml()).expect("own text"), stack, "{name}");
        names.push(name.to_owned());
    }
    names.sort();
    assert_eq!(names, ["cray-mpich-cxi", "intel-mpi", "mpich", "mvapich", "openmpi-ucx"]);
}
