//! plugstack.conf (spank(8)): the line that names Grus's plugin, through `include` lines too.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::reason;

/// Deepest nesting of `include` lines.
const DEEPEST: usize = 8;

/// The line of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// As it is written.
    pub text: String,
    /// `required`, not `optional`.
    pub required: bool,
    /// The plugin's path or name.
    pub plugin: String,
    /// The site file that the plugin is told.
    pub config: Option<PathBuf>,
}

/// The first line that names Grus's plugin; None if there is none.
pub fn read(file: &Path) -> Result<Option<Line>, String> {
    within(file, 0)
}

fn within(file: &Path, depth: usize) -> Result<Option<Line>, String> {
    let text = fs::read_to_string(file).map_err(|e| reason(&e))?;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("include"), Some(pattern)) if depth < DEEPEST => {
                for included in matching(&file.with_file_name("").join(pattern)) {
                    // slurmd goes on without a file that it cannot read, too.
                    if let Ok(Some(found)) = within(&included, depth + 1) {
                        return Ok(Some(found));
                    }
                }
            }
            (Some(word @ ("required" | "optional")), Some(plugin))
                if Path::new(plugin).file_name().is_some_and(|name| name == "spank_grus.so") =>
            {
                let config = words.find_map(|word| word.strip_prefix("config=")).map(PathBuf::from);
                let (text, plugin) = (line.to_owned(), plugin.to_owned());
                return Ok(Some(Line { text, required: word == "required", plugin, config }));
            }
            _ => {}
        }
    }
    Ok(None)
}

/// The files that a pattern with `*` in its last component stands for, by name.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((before, after)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let entries = fs::read_dir(pattern.with_file_name("")).into_iter().flatten().flatten();
    let fits = |name: &str| {
        name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
    };
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| fits(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_found_through_includes_and_not_in_comments() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("plugstack.conf");
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("writable");
        write("plugstack.conf", "# required spank_grus.so\noptional other.so\n");
        assert_eq!(read(&file), Ok(None));
        fs::create_dir(dir.path().join("plugstack.conf.d")).expect("mkdir");
        write("plugstack.conf", "include plugstack.conf.d/*.conf\n");
        write("plugstack.conf.d/a.conf", "optional  /x/spank_grus.so  config=/y/grus.toml\n");
        write("plugstack.conf.d/b.txt", "required spank_grus.so\n");
        let line = read(&file).expect("readable").expect("found");
        assert!(!line.required);
        assert_eq!((line.plugin.as_str(), line.config), ("/x/spank_grus.so", Some("/y/grus.toml".into())));
        write("plugstack.conf", "include plugstack.conf\n");
        assert_eq!(read(&file), Ok(None), "an end to it");
        assert!(read(&dir.path().join("none")).is_err());
    }
}
