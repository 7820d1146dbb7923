//! Which environment a task sees. One precedence, lowest to highest: the job's environment, the image's
//! `ENV`, the site's rules.
//!
//! Three exceptions: what Slurm sets for a task is never overridden by an image; HOME, USER, LOGNAME and SHELL stay
//! the user's; and the host's library and language paths ([`LEAKS`]) do not reach into an image, where they
//! would name files of another system.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

use crate::image::ImageConfig;

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
const JOBS_OWN: &[&str] = &[
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
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

/// Decides the changes. `job` is the environment the task would have on the host.
pub fn decide(image: &ImageConfig, rules: &Rules, job: &BTreeMap<String, String>) -> Edits {
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
    for (name, value) in &rules.set {
        edits.set.insert(name.clone(), value.clone());
    }
    for (name, front) in &rules.prepend {
        let joined = join(Some(front), current(&edits, job, name).as_ref());
        edits.set.insert(name.clone(), joined);
    }
    for (name, back) in &rules.append {
        let joined = join(current(&edits, job, name).as_ref(), Some(back));
        edits.set.insert(name.clone(), joined);
    }
    edits.unset.retain(|name| !edits.set.contains_key(name));
    edits
}

fn current(edits: &Edits, job: &BTreeMap<String, String>, name: &str) -> Option<String> {
    match (edits.set.get(name), edits.unset.contains(name)) {
        (Some(value), _) => Some(value.clone()),
        (None, true) => None,
        (None, false) => job.get(name).cloned(),
    }
}

fn join(front: Option<&String>, back: Option<&String>) -> String {
    let parts: Vec<&str> =
        [front, back].into_iter().flatten().map(String::as_str).filter(|p| !p.is_empty()).collect();
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
        let edits = decide(&image(&["PATH=/image", "A=image", "B=image"]), &rules, &job);
        assert_eq!(edits.set, map(&[("PATH", "/image"), ("A", "image"), ("B", "site")]));
        assert!(edits.unset.is_empty());
    }

    #[test]
    fn the_hosts_path_never_leaks() {
        let edits = decide(&image(&[]), &Rules::default(), &map(&[("PATH", "/opt/host/bin")]));
        assert_eq!(edits.set["PATH"], DEFAULT_PATH);
    }

    #[test]
    fn library_paths_of_the_host_are_dropped_unless_kept() {
        let job = map(&[("LD_LIBRARY_PATH", "/h"), ("PYTHONPATH", "/p"), ("X_1", ""), ("X_2", "")]);
        let rules =
            Rules { keep: vec!["PYTHONPATH".into()], unset: vec!["X_*".into()], ..Default::default() };
        let edits = decide(&image(&["LD_LIBRARY_PATH=/image"]), &rules, &job);
        assert_eq!(edits.set["LD_LIBRARY_PATH"], "/image");
        assert_eq!(edits.unset.iter().collect::<Vec<_>>(), ["X_1", "X_2"]);
    }

    #[test]
    fn an_image_cannot_replace_what_slurm_and_the_login_set() {
        let edits = decide(
            &image(&["HOME=/root", "SLURM_PROCID=0", "PMI_RANK=0", "CUDA_VISIBLE_DEVICES=0"]),
            &Rules::default(),
            &BTreeMap::new(),
        );
        assert_eq!(edits.set.keys().collect::<Vec<_>>(), ["PATH"]);
    }

    #[test]
    fn the_site_joins_paths_to_what_is_in_force() {
        let job = map(&[("LD_LIBRARY_PATH", "/host"), ("MODULES", "m")]);
        let rules = Rules {
            prepend: map(&[("LD_LIBRARY_PATH", "/site"), ("PATH", "/site/bin")]),
            append: map(&[("MODULES", "n"), ("PATH", "/end")]),
            ..Default::default()
        };
        let edits = decide(&image(&["PATH=/image"]), &rules, &job);
        assert_eq!(edits.set["LD_LIBRARY_PATH"], "/site", "the host's own value is a leak");
        assert_eq!(edits.set["PATH"], "/site/bin:/image:/end");
        assert_eq!(edits.set["MODULES"], "m:n");
        assert!(edits.unset.is_empty());
    }
}
