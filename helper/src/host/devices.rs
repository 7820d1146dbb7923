//! The host's devices, as containers get them: what its CDI files describe, and what nobody describes.

use std::path::Path;

use grus_core::path::AbsPath;
use grus_core::refusal::printable;
use grus_enter::cdi;

/// Device nodes that show a vendor's driver, and the beginning of the kinds that describe its devices.
const DRIVERS: [(&str, &str, &str); 3] = [
    (
        "/dev/nvidiactl",
        "nvidia.com/",
        "'nvidia-ctk cdi generate' describes them, or 'grus host scan --cdi' where there is only nvidia-container-cli",
    ),
    ("/dev/kfd", "amd.com/", "'amd-ctk cdi generate' describes them; their nodes are in every container"),
    (
        "/dev/accel",
        "intel.com/",
        "'intel-cdi-specs-generator' describes them; their nodes are in every container",
    ),
];

/// A line for each file, for each that is not used, and for each driver without a file.
pub fn devices(dirs: &[AbsPath]) -> Vec<String> {
    let registry = cdi::load(dirs);
    let mut lines = vec![];
    for (path, spec) in registry.files() {
        let names: Vec<&str> = spec.devices.iter().map(|device| device.name.as_str()).collect();
        lines.push(printable(&format!("devices: {path}: {} {}", spec.kind, names.join(", "))));
    }
    lines.extend(registry.problems().iter().map(|problem| printable(&format!("devices: {problem}"))));
    let kinds: Vec<String> = registry.kinds().iter().map(|kind| kind.to_string()).collect();
    for (node, vendor, how) in DRIVERS {
        if Path::new(node).exists() && !kinds.iter().any(|kind| kind.starts_with(vendor)) {
            lines.push(format!("devices: {node} is there, and no file describes its devices; {how}"));
        }
    }
    lines
}
