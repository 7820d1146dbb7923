//! The Container Device Interface (cncf-tags/container-device-interface, versions 0.3 to 1.1): what the files of
//! `/etc/cdi` and `/var/run/cdi` say of a node's devices, and which of them a container gets.
//!
//! Pure: bytes in, values out; `enter` reads the files and checks whose they are. The types are Grus's own: the crate
//! `container-device-interface` reads files itself, knows no version after 0.7 and turns edits into an OCI runtime
//! specification, which nobody here wants.
//!
//! Hooks are never run. What NVIDIA's and AMD's are known to do is done from their arguments ([`hooks`]); any other is
//! named in a warning.

mod capabilities;
mod choose;
mod grant;
mod hooks;
mod name;
mod registry;
mod spec;
mod yaml;

pub use capabilities::Capabilities;
pub use choose::{choose, Chosen, Pick, Question};
pub use grant::Grant;
pub use hooks::{effects, Effects};
pub use name::{Asked, Gpus, Kind, Qualified};
pub use registry::{Registry, Source};
pub use spec::{parse, BindMount, Device, Edits, Hook, Node, Spec, MAX_SPEC};

/// Where files of devices are unless the site says otherwise; later ones win.
pub const USUAL_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

#[cfg(test)]
mod tests;
