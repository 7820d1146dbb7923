//! Images and host stacks written by hand, a file a line:
//!
//! ```text
//! lib  /usr/lib/libmpi.so.12  mpi=mpich3 needs=libc.so.6,libfabric.so.1 runpath=$ORIGIN
//! prog /app/hello             needs=libmpi.so.12 imports=MPI_Init,MPI_Send
//! host cray                   (lines after it are the host's; `role=` where the name does not tell)
//! mpi  mpich Cray_MPICH_8 pmi2,cray_shasta
//! ```

use std::collections::BTreeMap;

use grus_core::elf::{Collector, ImageFacts, Kind, Object, Symbols};
use grus_core::ldcache::{Cache, Entry};
use grus_core::path::AbsPath;
use grus_core::stack::{role_of, Extra, Family, Library, Mpi, Pmi, Role, Stack, Variables, STACK_FORMAT};
use grus_core::swap::{Brought, GlibcRule, Mode};

/// One case.
pub struct Case {
    pub image: ImageFacts,
    pub library_path: Vec<String>,
    pub stacks: Vec<Stack>,
    pub first: Option<Brought>,
    pub mode: Mode,
    pub glibc: GlibcRule,
    pub taken: Vec<AbsPath>,
}

/// MPI libraries in a few symbols each: what distinguishes them.
fn exports(mpi: &str) -> (&'static str, &'static [(&'static str, u64)]) {
    const OPEN: &[(&str, u64)] = &[("ompi_mpi_comm_world", 512), ("ompi_mpi_int", 352)];
    match mpi {
        "mpich3" => ("[P]MPI_Init [P]MPI_Comm_rank [P]MPI_Send [P]MPI_Ibarrier MPIR_F_MPI_BOTTOM", &[]),
        "mpich4" => (
            "[P]MPI_Init [P]MPI_Comm_rank [P]MPI_Send [P]MPI_Ibarrier [P]MPI_Session_init MPII_Op_set_cxx",
            &[],
        ),
        "mpich5" => (
            "[P]MPI_Init [P]MPI_Comm_rank [P]MPI_Send [P]MPI_Ibarrier [P]MPI_Session_init \
             [P]MPI_Comm_attach_buffer [P]MPI_Abi_get_version",
            &[],
        ),
        "abi" => ("[P]MPI_Init [P]MPI_Comm_rank [P]MPI_Send [P]MPI_Session_init [P]MPI_Abi_get_version", &[]),
        "abi43" => ("[P]MPI_Init [P]MPI_Comm_rank [P]MPI_Send [P]MPI_Session_init", &[]),
        "openmpi4" => ("[P]MPI_Init [P]MPI_Comm_rank [P]MPI_Send ompi_mpi_comm_world ompi_mpi_int", OPEN),
        "openmpi5" => (
            "[P]MPI_Init [P]MPI_Comm_rank [P]MPI_Send [P]MPI_Session_init ompi_mpi_comm_world ompi_mpi_int",
            OPEN,
        ),
        "fort" => ("[p]mpi_init_ [p]mpi_send_", &[]),
        "f08" => ("[p]mpi_init_ [p]mpi_send_ mpi_init_f08_", &[]),
        "cxx" => ("_ZN3MPI4InitEv", &[]),
        other => panic!("no such mpi={other}"),
    }
}

fn abs(text: &str) -> Result<AbsPath, String> {
    AbsPath::parse(text).map_err(|e| e.what)
}

fn list(text: &str) -> Vec<String> {
    text.split(',').filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

/// An object from `key=value` words.
fn object(path: &AbsPath, kind: Kind, words: &[&str]) -> Result<(Object, Option<Role>), String> {
    let name = path.components().next_back().unwrap_or_default();
    // The SONAME that a file of this name usually has: up to the first number.
    let soname =
        name.split_once(".so.").map(|(stem, v)| format!("{stem}.so.{}", v.split('.').next().unwrap_or(v)));
    let mut o = Object { machine: "x86_64".into(), kind, ..Object::default() };
    o.soname = soname.filter(|_| kind == Kind::Library);
    let (mut role, mut symbols) = (None, vec![]);
    for word in words {
        let (key, value) = word.split_once('=').ok_or(format!("'{word}' is no key=value"))?;
        match key {
            "soname" => o.soname = Some(value.to_owned()).filter(|v| v != "-"),
            "needs" => o.needed = list(value),
            "rpath" => o.rpath = list(value),
            "runpath" => o.runpath = list(value),
            "provides" => o.provides = list(value),
            "requires" => {
                for need in list(value) {
                    let (library, node) = need.split_once(':').ok_or("requires=LIB:NODE")?;
                    o.requires.entry(library.to_owned()).or_default().push(node.to_owned());
                }
            }
            "exports" => symbols.push(list(value).join(" ")),
            "mpi" => {
                let (text, data) = exports(value);
                symbols.push(text.to_owned());
                o.data.extend(data.iter().map(|(n, s)| ((*n).to_owned(), *s)));
            }
            "imports" => o.imports = Symbols::parse(&list(value).join(" "))?,
            "weak" => o.weak = Symbols::parse(&list(value).join(" "))?,
            "data" => {
                for entry in list(value) {
                    let (name, size) = entry.split_once(':').ok_or("data=NAME:SIZE")?;
                    o.data.insert(name.to_owned(), size.parse().map_err(|_| "a size")?);
                }
            }
            "interp" => o.interpreter = Some(value.to_owned()),
            "machine" => o.machine = value.to_owned(),
            "static" => o.static_mpi = value == "mpi",
            "role" => {
                role = Some(match value {
                    "plugin" => Role::Plugin,
                    "shared" => Role::Shared,
                    other => return Err(format!("role={other}")),
                });
            }
            _ => return Err(format!("unknown word '{word}'")),
        }
    }
    o.exports = Symbols::parse(&symbols.join(" "))?;
    Ok((o, role))
}

fn stack(name: &str, words: &[&str]) -> Stack {
    Stack {
        name: name.into(),
        format: STACK_FORMAT,
        description: String::new(),
        example: words.contains(&"example"),
        machine: words.iter().find_map(|w| w.strip_prefix("machine=")).unwrap_or("x86_64").into(),
        mpi: vec![],
        devices: vec![],
        path: vec![],
        environment: Variables::default(),
        library: vec![],
    }
}

fn mpi(words: &[&str]) -> Result<Mpi, String> {
    let [family, version, pmi] = words else { return Err("mpi FAMILY VERSION PMI".into()) };
    let family = match *family {
        "mpich" => Family::Mpich,
        "openmpi" => Family::OpenMpi,
        "abi" => Family::Abi,
        other => return Err(format!("family {other}")),
    };
    let pmi = list(pmi).into_iter().map(|p| match p.as_str() {
        "pmix" => Pmi::Pmix,
        "cray_shasta" => Pmi::CrayShasta,
        _ => Pmi::Pmi2,
    });
    Ok(Mpi { family, version: version.replace('_', " "), pmi: pmi.collect() })
}

/// A line of a host stack.
fn host_line(stack: &mut Stack, words: &[&str]) -> Result<(), String> {
    match words {
        ["mpi", rest @ ..] => stack.mpi.push(mpi(rest)?),
        ["lib", path, rest @ ..] => {
            let path = abs(path)?;
            let (object, role) = object(&path, Kind::Library, rest)?;
            let name = object.soname.as_deref().or(path.components().next_back()).unwrap_or_default();
            let role = role.unwrap_or_else(|| role_of(name, &object));
            stack.library.push(Library { path, role, object });
        }
        ["path", path, rest @ ..] => stack.path.push(Extra {
            path: abs(path)?,
            replace: rest.contains(&"replace"),
            optional: rest.contains(&"optional"),
            with: match () {
                () if rest.contains(&"fabric") => Role::Fabric,
                () if rest.contains(&"glibc") => Role::Glibc,
                () => Role::Mpi,
            },
        }),
        ["device", path] => stack.devices.push(abs(path)?),
        [how @ ("set" | "default" | "prepend"), variable] => {
            let (name, value) = variable.split_once('=').ok_or("NAME=VALUE")?;
            let values: &mut BTreeMap<String, String> = match *how {
                "set" => &mut stack.environment.set,
                "default" => &mut stack.environment.default,
                _ => &mut stack.environment.prepend,
            };
            values.insert(name.into(), value.into());
        }
        other => return Err(format!("unknown line {other:?}")),
    }
    Ok(())
}

/// Parses a case.
pub fn parse(text: &str) -> Result<Case, String> {
    let mut c = Collector::default();
    let mut cache: Option<Cache> = None;
    let (mut library_path, mut stacks, mut taken) = (vec![], Vec::<Stack>::new(), vec![]);
    let (mut first, mut mode, mut glibc) = (None, Mode::Host, GlibcRule::Never);
    for line in text.lines().map(|l| l.split('#').next().unwrap_or_default()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            ["host", name, rest @ ..] => stacks.push(stack(name, rest)),
            ["mode", word] => mode = Mode::parse(word).map_err(|e| e.what)?,
            ["first", word] => first = Some(Brought::parse(word).ok_or("first MODULE=STACK")?),
            ["glibc", "auto"] => glibc = GlibcRule::Auto,
            ["taken", path] => taken.push(abs(path)?),
            ["env-path", dirs] => library_path = dirs.split(':').map(str::to_owned).collect(),
            words if !stacks.is_empty() => {
                host_line(stacks.last_mut().expect("not empty"), words)?;
            }
            ["link", path, target] => c.link(abs(path)?, target),
            ["cache", name, path] => {
                let entry = Entry {
                    name: (*name).into(),
                    path: (*path).into(),
                    flags: 0x303,
                    osversion: 0,
                    hwcaps: None,
                    hwcap: 0,
                };
                cache.get_or_insert_default().entries.push(entry);
            }
            [kind @ ("lib" | "prog"), path, rest @ ..] => {
                let path = abs(path)?;
                let kind = if *kind == "lib" { Kind::Library } else { Kind::Program };
                c.object(path.clone(), object(&path, kind, rest)?.0);
            }
            other => return Err(format!("unknown line {other:?}")),
        }
    }
    let mut image = c.finish();
    image.cache = cache;
    Ok(Case { image, library_path, stacks, first, mode, glibc, taken })
}
