//! The plugin's arguments in plugstack.conf, and the site's configuration they lead to.
//!
//! The one argument is `config=PATH`. A file that is named must be there; the default one may be missing, and
//! then the defaults and grus.d hold. Everything else is refused, but only to those who ask for a container.

use std::path::{Path, PathBuf};

use grus_core::refusal::printable;
use grus_core::site::Site;
use grus_core::Refusal;

/// The site file, unless `config=` names another.
const DEFAULT: &str = "/etc/grus/grus.toml";

/// The site's choices.
pub fn site(arguments: &[&str]) -> Result<Site, Refusal> {
    match config(arguments)? {
        Some(named) => grus_enter::site::load(&named),
        None => grus_enter::site::load_if_there(Path::new(DEFAULT)),
    }
}

/// Where the profiles of the host's MPI stacks are: beside the site file.
pub fn stacks(arguments: &[&str]) -> Result<PathBuf, Refusal> {
    Ok(config(arguments)?.unwrap_or_else(|| DEFAULT.into()).with_file_name("stacks"))
}

/// The site file that was named; None for the default.
pub fn config(arguments: &[&str]) -> Result<Option<PathBuf>, Refusal> {
    let mut config = None;
    for argument in arguments {
        config = match argument.split_once('=') {
            Some(("config", path)) if path.starts_with('/') => Some(PathBuf::from(path)),
            _ => {
                return Err(Refusal::site(format!(
                    "plugstack.conf gives spank_grus.so the argument '{}', which it does not know",
                    printable(argument)
                ))
                .hint("the administrator must mend it: the one argument is config=/path/of/grus.toml"))
            }
        };
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_argument_is_known_and_all_others_are_refused() {
        assert_eq!(config(&[]).expect("none"), None);
        assert_eq!(config(&["config=/a/b"]).expect("a path"), Some("/a/b".into()));
        for bad in ["confg=/a", "config", "config=", "config=a/b", ""] {
            let refusal = config(&["config=/a", bad]).expect_err(bad);
            assert!(refusal.what.contains(&format!("'{bad}'")) && refusal.hint.is_some(), "{refusal}");
        }
    }
}
