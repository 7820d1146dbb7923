//! Facts of real files, compiled here, compared with what they were compiled to be.

#[path = "support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use grus_core::elf::{Collector, Kind, Libc, Object};
use grus_core::swap::provider_family;
use support::{compile, object};

fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("writable");
    dir
}

const LIBRARY: &str = r#"
int MPI_Init(int *c, char ***v) { return 0; }
int PMPI_Init(int *c, char ***v) { return 0; }
int MPI_Comm_rank(long c, int *r) { return 0; }
__attribute__((visibility("hidden"))) int MPI_Hidden(void) { return 0; }
static int MPI_Static(void) { return 0; }
int unrelated(void) { return MPI_Static(); }
char ompi_mpi_comm_world[512] = {1};
int ompi_private_function(void) { return 0; }
"#;

const PROGRAM: &str = r#"
int MPI_Init(int *, char ***);
extern char ompi_mpi_comm_world[512];
int main(int c, char **v) {
    return MPI_Init(&c, &v) + ompi_mpi_comm_world[0];
}
"#;

fn library(dir: &Path, more: &[&str]) -> PathBuf {
    std::fs::write(dir.join("map"), "NODE_1.0 { global: *; };\nNODE_1.1 { } NODE_1.0;\n").expect("writable");
    let map = format!("-Wl,--version-script={}", dir.join("map").display());
    let mut arguments =
        vec!["-shared", "-fPIC", "-Wl,-soname,libmpi.so.40", "-Wl,-rpath,$ORIGIN/x:/opt/y", &map];
    arguments.extend(more);
    compile(dir, "libmpi.so.40", LIBRARY, &arguments)
}

fn facts(path: &Path) -> Object {
    object(path).expect("ELF")
}

#[test]
fn a_library_tells_what_it_is() {
    for (hash, tags) in
        [("gnu", "--enable-new-dtags"), ("sysv", "--disable-new-dtags"), ("both", "--enable-new-dtags")]
    {
        let dir = scratch(&format!("elf-{hash}"));
        let o = facts(&library(&dir, &[&format!("-Wl,--hash-style={hash}"), &format!("-Wl,{tags}")]));
        assert_eq!(o.machine, std::env::consts::ARCH);
        assert_eq!((o.kind, o.soname.as_deref()), (Kind::Library, Some("libmpi.so.40")));
        assert_eq!(o.provides, ["NODE_1.0", "NODE_1.1"]);
        let (dirs, none) = if hash == "sysv" { (&o.rpath, &o.runpath) } else { (&o.runpath, &o.rpath) };
        assert_eq!(dirs, &["$ORIGIN/x", "/opt/y"]);
        assert!(none.is_empty());
        let exports: Vec<&str> = o.exports.iter().collect();
        assert_eq!(exports, ["MPI_Comm_rank", "MPI_Init", "PMPI_Init", "ompi_mpi_comm_world"], "{hash}");
        assert_eq!(o.data.get("ompi_mpi_comm_world"), Some(&512));
        assert_eq!(provider_family("libmpi.so.40", &o), Some(grus_core::stack::Family::OpenMpi));
    }
}

#[test]
fn a_program_tells_what_it_needs() {
    let dir = scratch("elf-program");
    let lib = library(&dir, &[]);
    let lib = lib.to_str().expect("UTF-8");
    for (name, flags, copies) in
        [("pie", &["-pie", "-fPIE"][..], true), ("fixed", &["-no-pie", "-fno-pie"], true)]
    {
        let o = facts(&compile(&dir, name, PROGRAM, &[flags, &[lib]].concat()));
        assert_eq!((o.kind, o.soname.as_deref()), (Kind::Program, None), "{name}");
        assert!(o.interpreter.as_deref().is_some_and(|i| i.starts_with("/lib")), "{:?}", o.interpreter);
        assert!(
            o.needed.iter().any(|n| n == "libmpi.so.40") && o.needed.iter().any(|n| n.starts_with("libc.so"))
        );
        assert!(o.imports.contains("MPI_Init"));
        assert!(o.requires.get("libc.so.6").is_some_and(|n| n.iter().any(|n| n.starts_with("GLIBC_2."))));
        assert_eq!(o.requires.get("libmpi.so.40").map(|n| n.join(" ")).as_deref(), Some("NODE_1.0"));
        assert_eq!(o.data.get("ompi_mpi_comm_world"), copies.then_some(&512), "{name}: a COPY relocation");
        assert!(!o.static_mpi);
    }
}

/// What mpi4py does: it names every function weakly, so that it loads on any version.
#[test]
fn weak_needs_are_told_apart() {
    let dir = scratch("elf-weak");
    let source = "__attribute__((weak)) int MPI_Session_init(void); int MPI_Finalize(void);\n\
                  int ask(void) { return MPI_Session_init ? MPI_Session_init() : MPI_Finalize(); }\n";
    let o = facts(&compile(&dir, "ext.so", source, &["-shared", "-fPIC"]));
    assert_eq!(o.weak.iter().collect::<Vec<_>>(), ["MPI_Session_init"]);
    assert_eq!(o.imports.iter().collect::<Vec<_>>(), ["MPI_Finalize"]);
    assert!(o.uses_mpi() && o.kind == Kind::Library && o.soname.is_none());
}

#[test]
fn stripped_section_headers_change_nothing() {
    let dir = scratch("elf-stripped");
    let whole = library(&dir, &[]);
    let before = facts(&whole);
    // e_shoff, e_shnum and e_shstrndx to nothing: what `sstrip` leaves.
    let mut bytes = std::fs::read(&whole).expect("readable");
    bytes[40..48].fill(0);
    bytes[60..64].fill(0);
    assert_eq!(Object::read(&bytes).expect("good"), Some(before));
    let strip = Command::new("strip").arg(&whole).status().expect("strip runs");
    assert!(strip.success());
    assert_eq!(facts(&whole).exports.len(), 4);
}

#[test]
fn an_mpi_inside_a_program_is_seen() {
    let dir = scratch("elf-static");
    let both = format!("{}\n{}", LIBRARY, "int main(int c, char **v) { return MPI_Init(&c, &v); }");
    assert!(facts(&compile(&dir, "inside", &both, &[])).static_mpi);
    assert!(facts(&compile(&dir, "exported", &both, &["-rdynamic"])).static_mpi);
    assert!(facts(&compile(&dir, "static", &both, &["-static"])).static_mpi);
    assert!(!facts(&compile(&dir, "without", "int main(void) { return 0; }", &[])).static_mpi);
}

#[test]
fn this_machine_is_understood() {
    let mut c = Collector::default();
    support::base(&mut c, &|_| false);
    let image = c.finish();
    let version = Command::new("getconf").arg("GNU_LIBC_VERSION").output().expect("getconf runs").stdout;
    let version = String::from_utf8_lossy(&version).trim().replace("glibc ", "");
    assert_eq!(image.libc, Libc::Glibc(version));
    assert!(image.cache.is_some() && !image.truncated);
    // A few hundred libraries stay well below the size that is worth storing.
    assert!(image.to_json().len() < 2 << 20, "{}", image.to_json().len());
    assert!(image.object("/lib64/ld-linux-x86-64.so.2").is_some() || std::env::consts::ARCH != "x86_64");
}

#[test]
fn damaged_real_files_are_survived() {
    let dir = scratch("elf-damage");
    let good = std::fs::read(library(&dir, &[])).expect("readable");
    // A simple generator is enough: the aim is breadth, and the same on each run.
    let mut seed = 1_u64;
    let mut next = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let mut errors = 0;
    for _ in 0..20_000 {
        let mut bad = good.clone();
        for _ in 0..1 + next(4) {
            // Mostly the headers and tables at the front.
            let at = if next(3) == 0 { next(bad.len()) } else { next(4096.min(bad.len())) };
            bad[at] = next(256) as u8;
        }
        bad.truncate(if next(4) == 0 { next(bad.len()) } else { bad.len() });
        errors += usize::from(Object::read(&bad).is_err());
    }
    assert!(errors > 100, "only {errors} of 20000 were found out");
}
