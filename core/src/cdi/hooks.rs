//! What known hooks would do, told from their arguments. No hook is ever run: it would be a program of the host, as root,
//! in reach of an image's files and variables (CVE-2024-0132, CVE-2025-23266, CVE-2025-23267).
//!
//! The commands are those of `nvidia-cdi-hook`, also as `nvidia-ctk hook`, and of `amd-ctk hook`.

use std::collections::BTreeSet;

use super::spec::Hook;
use crate::path::AbsPath;
use crate::refusal::printable;

/// Programs whose commands are known.
const PROGRAMS: [&str; 3] = ["nvidia-cdi-hook", "nvidia-ctk", "amd-ctk"];
/// Where images have CUDA's compatibility libraries.
const COMPAT: &str = "/usr/local/cuda/compat";

/// What hooks would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Links of the container: where each is, and what it leads to.
    pub links: Vec<(AbsPath, AbsPath)>,
    /// Directories whose libraries the loader finds, and that have a link for each SONAME.
    pub folders: BTreeSet<AbsPath>,
    /// The image's directory of CUDA libraries that take the place of the host's where they are of a newer driver, and
    /// the major version of the host's.
    pub compat: Option<(AbsPath, u32)>,
    /// NVIDIA's library shall not try to make or change device nodes.
    pub device_files: bool,
    /// Hooks that nobody knows, for a warning.
    pub unknown: BTreeSet<String>,
}

/// What `hooks` would do all together.
pub fn effects<'a>(hooks: impl IntoIterator<Item = &'a Hook>) -> Effects {
    let mut all = Effects::default();
    for hook in hooks {
        if let Err(why) = all.add(hook) {
            all.unknown.insert(why);
        }
    }
    all
}

impl Effects {
    /// Adds one hook's; otherwise what is to be said of it.
    fn add(&mut self, hook: &Hook) -> Result<(), String> {
        let program = hook.path.components().next_back().unwrap_or_default();
        let words = hook.args.get(1..).unwrap_or_default();
        let from = words.iter().position(|w| w != "hook" && !w.starts_with('-')).unwrap_or(words.len());
        let (command, flags) = match &words[from..] {
            [command, flags @ ..] if PROGRAMS.contains(&program) => (command.as_str(), flags),
            _ => return Err(shown(hook)),
        };
        let given = |name| values(flags, name);
        let of = |value: &str| format!("{} of {}", shown(hook), printable(value));
        match command {
            "create-symlinks" => {
                for link in given("link") {
                    let link = self::link(link).ok_or_else(|| of(link))?;
                    self.links.push(link);
                }
            }
            "update-ldcache" | "create-soname-symlinks" => {
                for folder in given("folder") {
                    self.folders.insert(AbsPath::parse(folder).map_err(|_| of(folder))?);
                }
            }
            "enable-cuda-compat" => {
                let root = given("cuda-compat-container-root").next().unwrap_or(COMPAT);
                let version =
                    given("host-driver-version").next().and_then(|v| v.split('.').next()?.parse().ok());
                let root = AbsPath::parse(root).map_err(|_| of(root))?;
                // Without a version there is nothing to compare with.
                self.compat = version.map(|version| (root, version)).or(self.compat.take());
            }
            "disable-device-node-modification" => self.device_files = true,
            // Device nodes and the directories they are in are the host's, as the host wants them.
            "chmod" => {}
            _ => return Err(shown(hook)),
        }
        Ok(())
    }
}

/// The values of `--name VALUE` and `--name=VALUE`.
fn values<'a>(flags: &'a [String], name: &'static str) -> impl Iterator<Item = &'a str> {
    let after = move |flag: &'a str| flag.strip_prefix("--")?.strip_prefix(name);
    flags.iter().enumerate().filter_map(move |(at, flag)| match after(flag)? {
        "" => flags.get(at + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    })
}

/// `TARGET::LINK`; a relative target is seen from the link's directory, and none leads out of the container.
fn link(text: &str) -> Option<(AbsPath, AbsPath)> {
    let (target, link) = text.split_once("::")?;
    let link = AbsPath::parse(link).ok().filter(|link| link.depth() > 0)?;
    let mut at = if target.starts_with('/') { AbsPath::root() } else { link.parent()? };
    for word in target.split('/').filter(|word| !word.is_empty() && *word != ".") {
        at = match word {
            ".." => at.parent().unwrap_or_else(AbsPath::root),
            name => at.join(name),
        };
    }
    // Once more, for its length and what is in it.
    let target = AbsPath::parse(at.as_str()).ok().filter(|target| target.depth() > 0 && *target != link)?;
    Some((link, target))
}

fn shown(hook: &Hook) -> String {
    printable(&format!("{} {}", hook.path, hook.args.get(1..).unwrap_or_default().join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> AbsPath {
        AbsPath::parse(text).expect("static")
    }

    fn hook(program: &str, args: &[&str]) -> Hook {
        Hook { path: path(program), args: args.iter().map(|a| (*a).to_owned()).collect() }
    }

    #[test]
    fn each_commands_effect_is_told_from_its_arguments() {
        let one = "/usr/bin/nvidia-cdi-hook";
        let hooks = [
            hook(one, &["nvidia-cdi-hook", "create-symlinks", "--link", "libcuda.so.1::/usr/lib/libcuda.so"]),
            hook(
                "/opt/bin/nvidia-ctk",
                &["nvidia-ctk", "hook", "create-symlinks", "--link=../x.so::/usr/lib/gbm/y.so"],
            ),
            hook(
                "/usr/bin/amd-ctk",
                &["amd-ctk", "hook", "create-symlinks", "--link", "/opt/rocm::/opt/rocm-6"],
            ),
            hook(
                one,
                &["nvidia-cdi-hook", "update-ldcache", "--folder", "/usr/lib", "--folder", "/usr/lib/vdpau"],
            ),
            hook(one, &["nvidia-cdi-hook", "create-soname-symlinks", "--folder=/usr/lib32"]),
            hook(one, &["nvidia-cdi-hook", "enable-cuda-compat", "--host-driver-version=575.57.08"]),
            hook(one, &["nvidia-cdi-hook", "disable-device-node-modification"]),
            hook(one, &["nvidia-cdi-hook", "chmod", "--mode", "755", "--path", "/dev/dri"]),
        ];
        let links =
            [("/usr/lib/libcuda.so", "/usr/lib/libcuda.so.1"), ("/usr/lib/gbm/y.so", "/usr/lib/x.so")];
        let links = links.into_iter().chain([("/opt/rocm-6", "/opt/rocm")]);
        assert_eq!(
            effects(&hooks),
            Effects {
                links: links.map(|(link, target)| (path(link), path(target))).collect(),
                folders: ["/usr/lib", "/usr/lib/vdpau", "/usr/lib32"].map(path).into(),
                compat: Some((path(COMPAT), 575)),
                device_files: true,
                unknown: BTreeSet::new(),
            }
        );
    }

    #[test]
    fn what_is_unknown_or_hostile_is_named_and_has_no_effect() {
        let one = "/usr/bin/nvidia-cdi-hook";
        for (program, args) in [
            ("/bin/sh", &["sh", "-c", "id"][..]),
            ("/tmp/create-symlinks", &["x", "create-symlinks", "--link", "/a::/b"]),
            (one, &["nvidia-cdi-hook", "update-nvidia-params"]),
            (one, &["nvidia-cdi-hook"]),
            (one, &[]),
            (one, &["nvidia-cdi-hook", "create-symlinks", "--link", "/a::../../b"]),
            (one, &["nvidia-cdi-hook", "create-symlinks", "--link", "/a"]),
            (one, &["nvidia-cdi-hook", "create-symlinks", "--link", "b::/b"]),
            (one, &["nvidia-cdi-hook", "update-ldcache", "--folder", "/usr/../etc"]),
        ] {
            let all = effects([&hook(program, args)]);
            assert_eq!(all.unknown.len(), 1, "{args:?}");
            assert_eq!(Effects { unknown: BTreeSet::new(), ..all }, Effects::default(), "{args:?}");
        }
        // A target that climbs ends at the container's root.
        let climbing = ["nvidia-cdi-hook", "create-symlinks", "--link", "../../../../etc/shadow::/usr/lib/x"];
        assert_eq!(effects([&hook(one, &climbing)]).links, [(path("/usr/lib/x"), path("/etc/shadow"))]);
    }
}
