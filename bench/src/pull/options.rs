//! The words after `grus-bench pull`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use grus_tests::images::LARGE;

use super::tools::{Tool, PEERS};

/// For people.
pub const USAGE: &str = "\
grus-bench pull [--images slim,many32,hpc] [--peers podman,umoci,charliecloud] [--rounds 3]
    [--layouts DIR]   take DIR/IMAGE, an OCI layout with the tag 'latest', instead of making IMAGE
    [--limit SECONDS] the longest that one program may run; a peer that takes longer has no figure (900)
    [--dir DIR]       work below DIR, on a disk with room for the largest image three times (/var/tmp)
    [--figure FILE]   draw the wall times into FILE, as SVG";

/// What to measure.
#[derive(Debug, PartialEq)]
pub struct Options {
    /// Names of images.
    pub images: Vec<String>,
    /// Beside Grus; those asked for by name must be installed.
    pub peers: Vec<Tool>,
    /// Whether the peers were asked for by name.
    pub named: bool,
    /// Runs of each tool for each image.
    pub rounds: usize,
    /// The longest that one program may run.
    pub limit: Duration,
    /// Ready OCI layouts.
    pub layouts: Option<PathBuf>,
    /// Where to work.
    pub dir: PathBuf,
    /// Where to draw.
    pub figure: Option<PathBuf>,
}

impl Options {
    /// Reads the words.
    pub fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self {
            images: LARGE.iter().map(|name| (*name).to_owned()).collect(),
            peers: PEERS.map(|(_, tool)| tool).to_vec(),
            named: false,
            rounds: 3,
            limit: Duration::from_secs(900),
            layouts: None,
            dir: "/var/tmp".into(),
            figure: None,
        };
        for pair in words.chunks(2) {
            let [flag, value] = *pair else { bail!("{} needs a value\nusage: {USAGE}", pair[0]) };
            match flag {
                "--images" => options.images = list(value).map(str::to_owned).collect(),
                "--peers" => {
                    options.peers = list(value).map(peer).collect::<Result<_>>()?;
                    options.named = true;
                }
                "--rounds" => options.rounds = value.parse().context("--rounds wants a number")?,
                "--limit" => {
                    let seconds = value.parse().context("--limit wants a number of seconds")?;
                    options.limit = Duration::from_secs(seconds);
                }
                // Programs run in a directory of their own.
                "--layouts" => options.layouts = Some(std::path::absolute(Path::new(value))?),
                "--dir" => options.dir = std::path::absolute(Path::new(value))?,
                "--figure" => options.figure = Some(value.into()),
                _ => bail!("unknown option {flag}\nusage: {USAGE}"),
            }
        }
        ensure!(options.rounds > 0, "--rounds wants a number from 1 on");
        ensure!(!options.images.is_empty(), "--images wants names");
        Ok(options)
    }
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').filter(|name| !name.is_empty())
}

fn peer(name: &str) -> Result<Tool> {
    let found = PEERS.iter().find(|(known, _)| *known == name);
    let known = || PEERS.map(|(name, _)| name).join(", ");
    found.map(|(_, tool)| *tool).with_context(|| format!("no peer {name}; there are {}", known()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let all = Options::parse(&[]).expect("defaults");
        assert_eq!((all.images.len(), all.peers.len(), all.rounds, all.named), (3, 3, 3, false));
        let some = ["--images", "slim", "--peers", "umoci,podman", "--rounds", "5", "--figure", "pull.svg"];
        let some = Options::parse(&some).expect("valid");
        assert_eq!((some.images, some.rounds), (vec!["slim".to_owned()], 5));
        assert_eq!(some.peers, [Tool::Umoci, Tool::Podman]);
        assert_eq!(Options::parse(&["--peers", ""]).expect("none").peers, []);
        for bad in [
            &["--rounds"][..],
            &["--rounds", "0"],
            &["--limit", "long"],
            &["--peers", "shifter"],
            &["--colour", "red"],
        ] {
            assert!(Options::parse(bad).is_err(), "{bad:?}");
        }
    }
}
