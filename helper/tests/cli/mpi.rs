//! Small libraries and programs that look like MPI to whoever reads their symbols, compiled at test time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Lab;

/// An MPI of the MPICH family, for `names` besides the ones every MPI has.
pub fn mpich(lab: &Lab, dir: &str, version: &str, names: &[&str]) {
    let mut source = format!("const char version[] = \"{version}\";\nint fabric(void);\n");
    for name in ["MPI_Init", "MPI_Comm_rank", "MPI_Finalize"].iter().chain(names) {
        source += &format!("int {name}(void) {{ return fabric(); }}\nint P{name}(void) {{ return 0; }}\n");
    }
    let fabric = format!("-Wl,-rpath,$ORIGIN {}", lab.path(dir).join("libfabric.so.1").display());
    library(lab, dir, "libmpi.so.12", &source, &fabric);
}

/// A libfabric with the version nodes 1.0 to 1.`newest`, and a provider for it.
pub fn libfabric(lab: &Lab, dir: &str, newest: usize) {
    let mut map = String::from("FABRIC_1.0 { global: fabric; local: *; };\n");
    for n in 1..=newest {
        map += &format!("FABRIC_1.{n} {{ }} FABRIC_1.{};\n", n - 1);
    }
    fs::write(lab.path("map"), map).expect("write");
    let script = format!("-Wl,--version-script={}", lab.path("map").display());
    library(lab, dir, "libfabric.so.1", "int fabric(void) { return 0; }", &script);
    library(lab, &format!("{dir}/libfabric"), "libtest-fi.so", "int provider(void) { return 0; }", "");
}

/// A program that calls MPI functions of the library in `dir`, found there by its RUNPATH.
pub fn program(lab: &Lab, root: &str, dir: &str, calls: &[&str]) {
    let declared: String = calls.iter().map(|c| format!("int {c}(void);\n")).collect();
    let called: String = calls.iter().map(|c| format!("{c}() + ")).collect();
    let source = format!("{declared}int main(void) {{ return {called}0; }}\n");
    let library = lab.path(root).join(&dir[1..]).join("libmpi.so.12");
    let arguments = format!("{} -Wl,-rpath,{dir} -Wl,--allow-shlib-undefined", library.display());
    compile(lab, &lab.path(root).join("usr/bin/app"), &source, &arguments);
}

/// A program with all its MPI inside.
pub fn static_program(lab: &Lab, root: &str) {
    let source = "int MPI_Init(void) { return 0; }\nint MPI_Comm_rank(void) { return 0; }\n\
                  int main(void) { return MPI_Init() + MPI_Comm_rank(); }\n";
    compile(lab, &lab.path(root).join("usr/bin/app"), source, "");
}

/// A directory that becomes an image: this machine's C library and loader.
pub fn rootfs(lab: &Lab, root: &str) {
    for (file, at) in [("libc.so.6", "lib64"), ("libm.so.6", "lib64")] {
        let found = ["/lib64", "/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu"]
            .iter()
            .map(|d| Path::new(d).join(file))
            .find(|p| p.exists())
            .expect("this machine has glibc");
        fs::create_dir_all(lab.path(root).join(at)).expect("mkdir");
        fs::copy(found, lab.path(root).join(at).join(file)).expect("copy");
    }
    fs::create_dir_all(lab.path(root).join("usr/bin")).expect("mkdir");
}

fn library(lab: &Lab, dir: &str, soname: &str, source: &str, more: &str) {
    let arguments = format!("-shared -fPIC -nostdlib -Wl,-soname,{soname} {more}");
    compile(lab, &lab.path(dir).join(soname), source, &arguments);
}

fn compile(lab: &Lab, to: &Path, source: &str, arguments: &str) {
    let c: PathBuf = lab.path("source.c");
    fs::write(&c, source).expect("write");
    fs::create_dir_all(to.parent().expect("a directory")).expect("mkdir");
    let mut cc = Command::new("cc");
    let built = cc.arg(&c).arg("-o").arg(to).args(arguments.split_whitespace()).output().expect("cc runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}
