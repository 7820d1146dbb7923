//! The only build script of the workspace; `plugin/` names it. It owns the constants of Slurm's headers and
//! the linker's words for the plugin.
//!
//! Where Slurm's headers and libclang are installed, bindgen reads the constants from them. Where they are
//! not, the checked-in `plugin/src/slurm_constants.rs` is taken as it is; a test compares the two.

use std::path::{Path, PathBuf};
use std::{env, fs, panic};

/// What is taken from `slurm/slurm.h`: ids of steps that are no srun's, and the headers' release.
const CONSTANTS: &str = "SLURM_(BATCH_SCRIPT|INTERACTIVE_STEP|EXTERN_CONT|VERSION_NUMBER)";

fn main() {
    let plugin = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("slurm_constants.rs");
    let checked_in = plugin.join("src/slurm_constants.rs");
    println!("cargo:rerun-if-changed={}", checked_in.display());
    println!("cargo:rerun-if-changed=../build.rs");
    println!("cargo:rerun-if-env-changed=GRUS_SLURM_INCLUDE");

    let read = from_headers();
    println!("cargo:rustc-env=GRUS_SLURM_HEADERS={}", if read.is_some() { "read" } else { "lack" });
    match read {
        Some(text) => fs::write(&out, text).expect("OUT_DIR is writable"),
        None => drop(fs::copy(&checked_in, &out).expect("the checked-in constants can be copied")),
    }
    // Only the plugin's own symbols are exported, none of the crates it is made of: slurm-spank brings an
    // unmangled one, and any name may clash in the process that loads us.
    println!("cargo:rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
}

/// The constants by bindgen, or None where headers or libclang lack.
fn from_headers() -> Option<String> {
    let include = env::var("GRUS_SLURM_INCLUDE").unwrap_or_else(|_| "/usr/include".into());
    let header = Path::new(&include).join("slurm/slurm.h");
    if !header.exists() {
        return None;
    }
    println!("cargo:rerun-if-changed={}", header.display());
    // bindgen panics when it finds no libclang; that is not an error here.
    panic::set_hook(Box::new(|_| {}));
    let generated = panic::catch_unwind(|| {
        bindgen::Builder::default()
            .header_contents("grus.h", "#include <slurm/slurm.h>\n")
            .clang_arg(format!("-I{include}"))
            .allowlist_var(CONSTANTS)
            .generate()
            .ok()
            .map(|bindings| bindings.to_string())
    });
    let _ = panic::take_hook();
    let text = generated.ok().flatten()?;
    let constants: Vec<&str> = text.lines().filter(|line| line.starts_with("pub const ")).collect();
    (constants.len() == 4).then(|| constants.join("\n") + "\n")
}
