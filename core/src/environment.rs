//! Which environment a task sees. One precedence, lowest to highest: the job's environment, the image's
//! `ENV`, the host's MPI stack where one is swapped in, its devices, modules, the site's rules, `--container-env`.
//!
//! Three exceptions: what Slurm sets for a task is never overridden by an image; HOME, USER, LOGNAME and SHELL stay
//! the user's; and the host's library and language paths ([`LEAKS`]) do not reach into an image, where they
//! would name files of another system.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use crate::image::ImageConfig;
use crate::path::AbsPath;
use crate::swap::Swap;

/// The loader's own search path (ld.so(8)).
const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// PATH of an image that names none, as Docker and Podman choose it.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Host variables that are dropped: they name host files that the image lacks or has in another version.
pub const LEAKS: &[&str] = &[
    "LD_AUDIT",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LIBRARY_PATH",
    "CPATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PERL5LIB",
    "RUBYLIB",
    "R_LIBS",
    "R_LIBS_USER",
    "MANPATH",
    "INFOPATH",
    "LOCPATH",
    "GCONV_PATH",
    "BASH_ENV",
    "ENV",
];

/// Variables of the job that an image may not replace; a trailing `*` matches any ending.
pub const JOBS_OWN: &[&str] = &[
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "SLURM_*",
    "SLURMD_*",
    "SPANK_*",
    "PMI_*",
    "PMIX_*",
    "PALS_*",
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ZE_AFFINITY_MASK",
    "TMPDIR",
];

/// The site's rules, `[environment]` of grus.toml.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Set, whatever job and image say.
    pub set: BTreeMap<String, String>,
    /// Put before the value, with a `:` between.
    pub prepend: BTreeMap<String, String>,
    /// Put after the value, with a `:` between.
    pub append: BTreeMap<String, String>,
    /// Removed from the job's environment, beyond [`LEAKS`]; a trailing `*` matches any ending.
    pub unset: Vec<String>,
    /// Kept of [`LEAKS`] all the same.
    pub keep: Vec<String>,
}

/// Changes to the job's environment, ready to be applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Variables to set.
    pub set: BTreeMap<String, String>,
    /// Variables to remove.
    pub unset: BTreeSet<String>,
}

impl Edits {
    /// Sets what is asked for, over what is set already.
    pub fn ask(&mut self, asked: &Asked, job: &BTreeMap<String, String>) {
        for (name, value) in asked {
            if let Some(value) = value.as_ref().or(job.get(name)) {
                self.unset.remove(name);
                self.set.insert(name.clone(), value.clone());
            }
        }
    }
}

/// Whether this is a variable's name as shells have it (POSIX, 8.1).
pub fn is_name(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(|c: char| !c.is_ascii_digit()) && text.chars().all(word)
}

/// What `--container-env` asks for: variables with their values, or without one to keep the job's.
pub type Asked = BTreeMap<String, Option<String>>;

/// What devices bring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfDevices {
    /// Variables to set; those that are the job's own stay as they are.
    pub set: BTreeMap<String, String>,
    /// Directories put before LD_LIBRARY_PATH, after a stack's.
    pub library_path: Vec<AbsPath>,
}

/// Decides the changes. `job` is the environment the task would have on the host.
pub fn decide(
    image: &ImageConfig,
    swap: Option<&Swap>,
    devices: &OfDevices,
    rules: &Rules,
    job: &BTreeMap<String, String>,
    asked: &Asked,
) -> Edits {
    let mut edits = Edits::default();
    for name in job.keys() {
        let leaks = LEAKS.contains(&name.as_str()) && !rules.keep.iter().any(|k| matches(k, name));
        if leaks || rules.unset.iter().any(|rule| matches(rule, name)) {
            edits.unset.insert(name.clone());
        }
    }
    edits.set.insert("PATH".into(), DEFAULT_PATH.into());
    for (name, value) in image.environment() {
        if !JOBS_OWN.iter().any(|own| matches(own, name)) {
            edits.set.insert(name.into(), value.into());
        }
    }
    if let Some(swap) = swap {
        stack(&mut edits, swap, job);
    }
    let own = |name: &str| JOBS_OWN.iter().any(|own| matches(own, name));
    edits.set.extend(devices.set.iter().filter(|(name, _)| !own(name)).map(|(n, v)| (n.clone(), v.clone())));
    for (name, value) in &rules.set {
        edits.set.insert(name.clone(), value.clone());
    }
    for (name, front) in &rules.prepend {
        prepend(&mut edits, job, name, front);
    }
    for (name, back) in &rules.append {
        let joined = join(current(&edits, job, name).as_deref(), Some(back));
        edits.set.insert(name.clone(), joined);
    }
    edits.ask(asked, job);
    for dir in devices.library_path.iter().rev() {
        prepend(&mut edits, job, LIBRARY_PATH, dir.as_str());
    }
    // Before everything else, or what was proved would not be what is found.
    if let Some(dir) = swap.and_then(|s| s.library_path.as_ref()) {
        prepend(&mut edits, job, LIBRARY_PATH, dir.as_str());
    }
    edits.unset.retain(|name| !edits.set.contains_key(name));
    edits
}

/// What a host stack sets; its defaults give way to the job's own values, with which users tune it.
fn stack(edits: &mut Edits, swap: &Swap, job: &BTreeMap<String, String>) {
    let tuned = |name: &String| job.contains_key(name);
    for (name, value) in swap.default.iter().filter(|(name, _)| !tuned(name)).chain(&swap.set) {
        edits.set.insert(name.clone(), value.clone());
    }
    for (name, front) in &swap.prepend {
        prepend(edits, job, name, front);
    }
}

fn prepend(edits: &mut Edits, job: &BTreeMap<String, String>, name: &str, front: &str) {
    let joined = join(Some(front), current(edits, job, name).as_deref());
    edits.set.insert(name.to_owned(), joined);
}

fn current(edits: &Edits, job: &BTreeMap<String, String>, name: &str) -> Option<String> {
    match (edits.set.get(name), edits.unset.contains(name)) {
        (Some(value), _) => Some(value.clone()),
        (None, true) => None,
        (None, false) => job.get(name).cloned(),
    }
}

fn join(front: Option<&str>, back: Option<&str>) -> String {
    let parts: Vec<&str> = [front, back].into_iter().flatten().filter(|p| !p.is_empty()).collect();
    parts.join(":")
}

fn matches(rule: &str, name: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => rule == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(
        image: &ImageConfig,
        swap: Option<&Swap>,
        rules: &Rules,
        job: &BTreeMap<String, String>,
    ) -> Edits {
        super::decide(image, swap, &OfDevices::default(), rules, job, &Asked::new())
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn image(env: &[&str]) -> ImageConfig {
        ImageConfig { env: env.iter().map(|e| (*e).to_owned()).collect(), ..Default::default() }
    }

    #[test]
    fn the_image_beats_the_host_and_the_site_beats_both() {
        let job = map(&[("PATH", "/host"), ("LANG", "C"), ("A", "host"), ("B", "host")]);
        let rules = Rules { set: map(&[("B", "site")]), ..Default::default() };
        let edits = decide(&image(&["PATH=/image", "A=image", "B=image"]), None, &rules, &job);
        assert_eq!(edits.set, map(&[("PATH", "/image"), ("A", "image"), ("B", "site")]));
        assert!(edits.unset.is_empty());
    }

    #[test]
    fn what_is_asked_for_has_the_last_word() {
        let job = map(&[("A", "job"), ("LD_LIBRARY_PATH", "/host"), ("B", "job")]);
        let rules = Rules { set: map(&[("B", "site")]), ..Default::default() };
        let asked = [("A", None), ("LD_LIBRARY_PATH", None), ("B", Some("mine")), ("GONE", None)];
        let asked = asked.map(|(name, value)| (name.to_owned(), value.map(str::to_owned))).into();
        let edits = super::decide(
            &image(&["A=image", "GONE=image"]),
            None,
            &OfDevices::default(),
            &rules,
            &job,
            &asked,
        );
        for (name, value) in [("A", "job"), ("LD_LIBRARY_PATH", "/host"), ("B", "mine"), ("GONE", "image")] {
            assert_eq!(edits.set[name], value, "{name}");
        }
        assert!(edits.unset.is_empty());
    }

    #[test]
    fn the_hosts_path_never_leaks() {
        let edits = decide(&image(&[]), None, &Rules::default(), &map(&[("PATH", "/opt/host/bin")]));
        assert_eq!(edits.set["PATH"], DEFAULT_PATH);
    }

    #[test]
    fn library_paths_of_the_host_are_dropped_unless_kept() {
        let job = map(&[("LD_LIBRARY_PATH", "/h"), ("PYTHONPATH", "/p"), ("X_1", ""), ("X_2", "")]);
        let rules =
            Rules { keep: vec!["PYTHONPATH".into()], unset: vec!["X_*".into()], ..Default::default() };
        let edits = decide(&image(&["LD_LIBRARY_PATH=/image"]), None, &rules, &job);
        assert_eq!(edits.set["LD_LIBRARY_PATH"], "/image");
        assert_eq!(edits.unset.iter().collect::<Vec<_>>(), ["X_1", "X_2"]);
    }

    #[test]
    fn an_image_cannot_replace_what_slurm_and_the_login_set() {
        let edits = decide(
            &image(&["HOME=/root", "SLURM_PROCID=0", "PMI_RANK=0", "CUDA_VISIBLE_DEVICES=0"]),
            None,
            &Rules::default(),
            &BTreeMap::new(),
        );
        assert_eq!(edits.set.keys().collect::<Vec<_>>(), ["PATH"]);
    }

    #[test]
    fn a_stack_stands_between_image_and_site_and_its_defaults_give_way_to_the_job() {
        let swap = Swap {
            set: map(&[("I_MPI_ROOT", "/opt/intel"), ("SITE", "stack")]),
            default: map(&[("FI_PROVIDER", "cxi"), ("UCX_TLS", "all"), ("EMPTY", "x")]),
            prepend: map(&[("UCX_MODULES", "/ucx")]),
            library_path: crate::path::AbsPath::parse("/run/grus/lib").ok(),
            ..Swap::default()
        };
        let image =
            image(&["I_MPI_ROOT=/image", "FI_PROVIDER=tcp", "LD_LIBRARY_PATH=/image/lib", "UCX_MODULES=/i"]);
        let rules = Rules {
            set: map(&[("SITE", "site")]),
            prepend: map(&[("LD_LIBRARY_PATH", "/site/lib")]),
            ..Default::default()
        };
        let edits = decide(&image, Some(&swap), &rules, &map(&[("UCX_TLS", "ud"), ("EMPTY", "")]));
        for (name, value) in [
            ("I_MPI_ROOT", "/opt/intel"),
            ("SITE", "site"),
            ("FI_PROVIDER", "cxi"),
            ("UCX_MODULES", "/ucx:/i"),
            ("LD_LIBRARY_PATH", "/run/grus/lib:/site/lib:/image/lib"),
        ] {
            assert_eq!(edits.set[name], value, "{name}");
        }
        assert!(!edits.set.contains_key("UCX_TLS") && !edits.set.contains_key("EMPTY"));
    }

    #[test]
    fn the_site_joins_paths_to_what_is_in_force() {
        let job = map(&[("LD_LIBRARY_PATH", "/host"), ("MODULES", "m")]);
        let rules = Rules {
            prepend: map(&[("LD_LIBRARY_PATH", "/site"), ("PATH", "/site/bin")]),
            append: map(&[("MODULES", "n"), ("PATH", "/end")]),
            ..Default::default()
        };
        let edits = decide(&image(&["PATH=/image"]), None, &rules, &job);
        assert_eq!(edits.set["LD_LIBRARY_PATH"], "/site", "the host's own value is a leak");
        assert_eq!(edits.set["PATH"], "/site/bin:/image:/end");
        assert_eq!(edits.set["MODULES"], "m:n");
        assert!(edits.unset.is_empty());
    }
}
