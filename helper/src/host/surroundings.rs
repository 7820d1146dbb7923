//! What an MPI opens at run time, and the directories, devices and variables it needs: found by the rules of each
//! library, from what is on disk.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use grus_core::path::AbsPath;
use grus_core::stack::{role_of, Extra, Role, Variables};

use super::closure::{libraries, Closure, Loader};
use super::file;
use super::version::Maker;

/// Where libibverbs reads which providers there are.
const VERBS_DRIVERS: &str = "/etc/libibverbs.d";
/// Largest driver file that is read, in bytes.
const MAX_DRIVER: u64 = 4096;

/// Everything around a stack's libraries.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Libraries that are opened, not needed.
    pub plugins: BTreeSet<AbsPath>,
    /// Directories.
    pub path: Vec<Extra>,
    /// Device nodes.
    pub devices: Vec<AbsPath>,
    /// Variables.
    pub environment: Variables,
    /// What the administrator should know.
    pub notes: Vec<String>,
}

/// A stack being scanned.
pub struct Around<'a> {
    /// Who made the MPI; None for a stack without one.
    pub maker: Option<Maker>,
    /// The directory of the MPI library, or of libfabric.
    pub dir: &'a Path,
    /// The stack's own directory; None if it is spread over the system's.
    pub prefix: Option<&'a Path>,
    /// Machine of its libraries.
    pub machine: &'a str,
    pub loader: &'a Loader,
    pub closure: &'a mut Closure,
}

impl Around<'_> {
    /// Looks around; the closure grows by what is opened.
    pub fn look(mut self) -> Surroundings {
        let mut all = Surroundings::default();
        if let Some(prefix) = self.prefix {
            self.directory(&mut all, prefix, Role::Fabric, false);
        }
        self.libfabric(&mut all);
        self.intel_pmix(&mut all);
        self.openmpi(&mut all);
        self.ucx(&mut all);
        self.verbs(&mut all);
        self.glibc(&mut all);
        if let (Some(Maker::Intel), Some(prefix)) = (self.maker, self.prefix) {
            all.environment.set.insert("I_MPI_ROOT".into(), prefix.display().to_string());
        }
        self.devices(&mut all);
        all
    }

    /// The directory of the library with this SONAME, in the closure.
    fn home(&self, soname: &str) -> Option<PathBuf> {
        let named = |o: &grus_core::elf::Object| o.soname.as_deref().is_some_and(|n| n.starts_with(soname));
        let (path, _) = self.closure.libraries.iter().find(|(_, o)| named(o))?;
        path.as_path().parent().map(Path::to_owned)
    }

    /// Adds opened libraries, each with its closure. One that could not be loaded here either is left out.
    fn open(&mut self, all: &mut Surroundings, paths: &[PathBuf], listed: bool) {
        for path in paths {
            let mut own = Closure { names: self.closure.names.clone(), ..Closure::default() };
            self.loader.add(&mut own, std::slice::from_ref(path), self.machine, listed);
            if let Some((name, _)) = own.missing.first() {
                if listed {
                    let left =
                        format!("{} is left out: it needs {name}, which this host lacks", path.display());
                    all.notes.push(left);
                }
                continue;
            }
            all.plugins.extend(file::real(path).filter(|_| listed));
            self.closure.libraries.append(&mut own.libraries);
            self.closure.names.append(&mut own.names);
        }
    }

    /// A directory that must be in the container, unless the stack's own directory has it.
    fn directory(&self, all: &mut Surroundings, dir: &Path, with: Role, replace: bool) {
        let Some(path) = dir.to_str().and_then(|d| AbsPath::parse(d).ok()) else { return };
        if !all.path.iter().any(|e| path.is_within(&e.path)) {
            all.path.push(Extra { path, replace, optional: false, with });
        }
    }

    /// Intel MPI opens its libfabric; libfabric opens its providers (fi_provider(7), FI_PROVIDER_PATH).
    fn libfabric(&mut self, all: &mut Surroundings) {
        let prefix = self.prefix.unwrap_or(self.dir);
        if self.maker == Some(Maker::Intel) && self.home("libfabric.so.1").is_none() {
            let dirs = ["libfabric/lib", "opt/mpi/libfabric/lib"].map(|d| prefix.join(d));
            let places = std::iter::once(self.dir.to_owned()).chain(dirs);
            let found = places.map(|d| d.join("libfabric.so.1")).find(|p| p.exists());
            self.loader.add(self.closure, found.as_slice(), self.machine, true);
        }
        let Some(home) = self.home("libfabric.so.1") else { return };
        let own = self.prefix.is_some_and(|p| home.starts_with(p));
        // Providers beside libfabric itself count only in a directory of the stack's own.
        let places = [home.join("libfabric"), home.join("prov"), home.join("libfabric/prov"), home.clone()];
        for dir in places.iter().filter(|d| own || **d != home) {
            let providers = libraries(dir, |n| n.ends_with("-fi.so"));
            if providers.is_empty() {
                continue;
            }
            self.open(all, &providers, true);
            self.directory(all, dir, Role::Fabric, true);
            all.environment.set.insert("FI_PROVIDER_PATH".into(), dir.display().to_string());
            return;
        }
    }

    /// Intel MPI opens `libpmix.so` where a job is launched by PMIx; without it each rank would be alone.
    fn intel_pmix(&mut self, all: &mut Surroundings) {
        if self.maker != Some(Maker::Intel) {
            return;
        }
        match self.loader.find("libpmix.so", &[], self.machine) {
            Some(path) => {
                self.open(all, std::slice::from_ref(&path), true);
                self.by_name(all, &path);
            }
            None => all.notes.push(
                "Intel MPI needs libpmix.so for 'srun --mpi=pmix', and the loader finds none: only pmi2 is listed"
                    .into(),
            ),
        }
    }

    /// UCX opens the modules in `ucx/` beside libucs, or in UCX_MODULE_DIR.
    fn ucx(&mut self, all: &mut Surroundings) {
        let Some(dir) = self.home("libucs.so").map(|d| d.join("ucx")) else { return };
        let modules = libraries(&dir, |n| n.starts_with("libuc"));
        if !modules.is_empty() {
            self.open(all, &modules, true);
            self.directory(all, &dir, Role::Fabric, true);
            all.environment.set.insert("UCX_MODULE_DIR".into(), dir.display().to_string());
        }
    }

    /// libibverbs opens the providers that its driver files name, from `libibverbs/` beside it or by plain name.
    /// Their interface to it is private: library, providers and driver files come from one release.
    fn verbs(&mut self, all: &mut Surroundings) {
        let Some(home) = self.home("libibverbs.so") else { return };
        let drivers = Path::new(VERBS_DRIVERS);
        let mut named = 0;
        for name in file::names(drivers).iter().filter(|n| n.ends_with(".driver")) {
            let mut text = String::new();
            let open = std::fs::File::open(drivers.join(name));
            if open.and_then(|f| f.take(MAX_DRIVER).read_to_string(&mut text)).is_err() {
                continue;
            }
            for driver in text.lines().filter_map(|l| l.trim().strip_prefix("driver")).map(str::trim) {
                let stem = driver.rsplit('/').next().unwrap_or(driver).trim_start_matches("lib");
                let start = format!("lib{stem}-rdmav");
                let found = [home.join("libibverbs"), home.clone()]
                    .iter()
                    .map(|dir| libraries(dir, |n| n.starts_with(&start)))
                    .find(|found| !found.is_empty());
                named += 1;
                for path in found.unwrap_or_default() {
                    self.open(all, std::slice::from_ref(&path), true);
                    self.by_name(all, &path);
                }
            }
        }
        if named > 0 {
            self.directory(all, drivers, Role::Fabric, true);
        }
    }

    /// A provider may be a link to a library that others need by its own name (libmlx5-rdmav34.so to libmlx5.so.1).
    /// It is opened by the link's name, so that one is listed, and the library as what it is.
    fn by_name(&mut self, all: &mut Surroundings, path: &Path) {
        let name = path.file_name().and_then(|n| n.to_str());
        let dir = path.parent().and_then(file::real);
        let (Some(real), Some(dir), Some(name)) = (file::real(path), dir, name) else { return };
        let Some(object) = self.closure.libraries.get(&real).cloned() else { return };
        let link = dir.join(name);
        if real != link && all.plugins.remove(&real) {
            self.closure.libraries.insert(link.clone(), object);
            all.plugins.insert(link);
        }
    }

    /// Open MPI and PMIx open components from directories of their own; those stay there, and only what they need
    /// is listed.
    fn openmpi(&mut self, all: &mut Surroundings) {
        if self.maker == Some(Maker::OpenMpi) {
            let parts = ["openmpi", "openmpi/lib/openmpi3", "openmpi/lib/openmpi"].map(|d| self.dir.join(d));
            for dir in parts {
                let components = libraries(&dir, |n| n.starts_with("mca_"));
                if !components.is_empty() {
                    self.open(all, &components, false);
                    self.directory(all, &dir, Role::Mpi, true);
                }
            }
            if let Some(prefix) = self.prefix {
                for name in ["OPAL_PREFIX", "PMIX_PREFIX"] {
                    all.environment.set.insert(name.into(), prefix.display().to_string());
                }
            } else if Path::new("/usr/share/openmpi").is_dir() {
                self.directory(all, Path::new("/usr/share/openmpi"), Role::Mpi, true);
            }
        }
        let home = self.home("libpmix.so");
        // Slurm's PMIx offers munge first, whose socket need not be in the container. Open MPI may have PMIx inside.
        if home.is_some() || self.maker == Some(Maker::OpenMpi) {
            all.environment.default.insert("PMIX_MCA_psec".into(), "native".into());
        }
        let Some(home) = home else { return };
        for dir in [home.join("pmix"), home.join("pmix2/lib/pmix"), home.join("lib/pmix")] {
            let components = libraries(&dir, |n| n.contains("mca_"));
            if !components.is_empty() {
                self.open(all, &components, false);
                self.directory(all, &dir, Role::Mpi, true);
            }
        }
    }

    /// The rest of glibc, for sites that let it come as a whole (its pieces fit only each other).
    fn glibc(&mut self, all: &mut Surroundings) {
        let Some(home) = self.home("libc.so.6") else { return };
        let stem = |n: &str| n.split(".so").next().unwrap_or(n).to_owned();
        let nss = ["libnss_files", "libnss_dns", "libnss_compat", "libnss_hesiod"];
        let piece = |n: &str| {
            grus_core::stack::GLIBC_FAMILY.contains(&stem(n).as_str()) || nss.contains(&stem(n).as_str())
        };
        // Names with a version: without one they are for the linker. libnsl.so.2 is no longer glibc's, and newer
        // releases have only stubs of the nss modules.
        let mut pieces =
            libraries(&home, |n| piece(n) && n.contains(".so.") && !n.starts_with("libnsl.so.2"));
        let glibc = |p: &PathBuf| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            file::object(p).is_some_and(|o| role_of(name, &o) == Role::Glibc)
        };
        pieces.retain(glibc);
        self.loader.add(self.closure, &pieces, self.machine, true);
        if home.join("gconv").is_dir() {
            self.directory(all, &home.join("gconv"), Role::Glibc, true);
        }
    }

    fn devices(&self, all: &mut Surroundings) {
        let known = [
            ("libcxi.so", "/dev/cxi*"),
            ("libibverbs.so", "/dev/infiniband/*"),
            ("libpsm2.so", "/dev/hfi1*"),
            ("libxpmem.so", "/dev/xpmem"),
        ];
        let needed = known.iter().filter(|(library, _)| self.home(library).is_some()).map(|(_, d)| *d);
        let here = ["/dev/xpmem", "/dev/knem"].into_iter().filter(|d| Path::new(d).exists());
        let names: BTreeSet<&str> = needed.chain(here).collect();
        all.devices = names.into_iter().filter_map(|d| AbsPath::parse(d).ok()).collect();
    }
}
