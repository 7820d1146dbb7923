//! Options and output that pull and import have in common.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::builder::{StringValueParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};
use grus_core::digest::Digest;
use grus_core::image::ImageMeta;
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::refusal::{printable, Refusal};
use grus_core::repository::Tag;
use grus_core::signature::Signed;
use grus_squash::{Compression, Options};
use serde::Serialize;

use crate::failure::Failure;
use crate::output;
use crate::progress::Style;
use crate::repository::{Lock, Repository};

/// How long a command waits for another one that makes the same image, if that one shows no progress here.
const LOCK_WAIT: Duration = Duration::from_secs(3600);

/// How an image is made and reported.
#[derive(Debug, clap::Args)]
pub struct Making {
    /// Take the image for this platform, for example linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = platform())]
    pub platform: Option<Platform>,
    #[command(flatten)]
    packing: Packing,
    /// Print the digest only
    #[arg(long, short)]
    pub quiet: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

impl Making {
    /// The platform wanted.
    pub fn platform(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::here)
    }

    /// What is shown meanwhile.
    pub fn style(&self) -> Style {
        match self.quiet || self.json {
            true => Style::Silent,
            false => Style::Full,
        }
    }

    /// Settings of the conversion.
    pub fn options(&self) -> Options {
        Options { compression: self.packing.compression, ..Options::default() }
    }

    /// Reports an image that is in place.
    pub fn report(&self, made: &Made) -> Result<(), Failure> {
        if let Some(note) = self.packing.not_had(made) {
            output::warn(&note);
        }
        if self.json {
            return output::json(made);
        }
        if self.quiet {
            return output::print(&format!("{}\n", made.digest));
        }
        let name = made.reference.familiar();
        let what = match made.status {
            Status::UpToDate => format!("{name} is up to date: {}", made.digest),
            Status::Tagged => format!("{name} is here already, under another name: {}", made.digest),
            Status::Made(verb) => format!(
                "{verb} {name}: {}, {} ({} unpacked), in {:.1} s",
                made.digest,
                output::bytes(made.size),
                output::bytes(made.unpacked_size),
                made.seconds
            ),
        };
        let signed = made
            .signatures
            .iter()
            .map(|s| format!("signed as {} by the key {}\n", printable(&s.identity), printable(&s.key)));
        output::print(&(what + "\n" + &signed.collect::<String>()))
    }
}

/// `--compression`, as clap reads it.
#[derive(Debug, clap::Args)]
struct PackingOption {
    /// How the image is compressed: zstd (fast to start, the default), lz4 (fastest to read, larger),
    /// gzip (for kernels before 4.14); zstd:1 to zstd:22 and gzip:1 to gzip:9 choose a level
    #[arg(long, value_name = "METHOD[:LEVEL]", value_parser = compression(), default_value = "zstd:1")]
    compression: Compression,
}

/// The same, and whether the user asked for it.
#[derive(Debug)]
struct Packing {
    compression: Compression,
    asked: bool,
}

impl FromArgMatches for Packing {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let asked = matches.value_source("compression") == Some(ValueSource::CommandLine);
        Ok(Self { compression: PackingOption::from_arg_matches(matches)?.compression, asked })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Packing {
    fn augment_args(command: clap::Command) -> clap::Command {
        <PackingOption as clap::Args>::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        <PackingOption as clap::Args>::augment_args_for_update(command)
    }
}

impl Packing {
    /// What to say where a method was asked for, and the image was there already with another one.
    fn not_had(&self, made: &Made) -> Option<String> {
        let name = made.reference.familiar();
        let remove = match made.status {
            Status::Made(_) => return None,
            Status::UpToDate => format!("grus rmi {name}"),
            // Without its name it would stay by the other ones.
            Status::Tagged => format!("grus rmi --force {}", made.digest),
        };
        let wanted = match self.compression {
            Compression::Zstd { .. } => "zstd",
            Compression::Lz4 => "lz4",
            Compression::Gzip { .. } => "gzip",
        };
        let kept = method_of(Path::new(&made.path)).filter(|kept| self.asked && *kept != wanted)?;
        Some(format!("{name} is kept as {kept}; to have it as {wanted}: {remove}, and run this again"))
    }
}

/// How a SquashFS file is compressed (kernel: fs/squashfs/squashfs_fs.h); None if it cannot be read or is unknown.
fn method_of(image: &Path) -> Option<&'static str> {
    let mut head = [0; 22];
    File::open(image).ok()?.read_exact(&mut head).ok()?;
    match u16::from_le_bytes([head[20], head[21]]) {
        1 => Some("gzip"),
        4 => Some("xz"),
        5 => Some("lz4"),
        6 => Some("zstd"),
        _ => None,
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The tag and its image were there.
    UpToDate,
    /// The image was there, the tag was set.
    Tagged,
    /// The image was made; with the verb that says how.
    #[serde(untagged)]
    Made(&'static str),
}

/// The image that a command made or found; its JSON form is printed with `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Made {
    reference: Reference,
    digest: Digest,
    platform: Platform,
    path: String,
    size: u64,
    unpacked_size: u64,
    seconds: f64,
    status: Status,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    signatures: Vec<Signed>,
}

/// An image on its way into the repository under a name.
pub struct Target<'a> {
    /// Where to.
    pub repository: &'a Repository,
    /// The name.
    pub reference: &'a Reference,
    /// The platform asked for: the tag's.
    pub platform: Platform,
    /// What the registry answered, if one was asked.
    pub resolved: Option<Digest>,
    /// The signatures that a policy wanted.
    pub signatures: Vec<Signed>,
    /// When the command began.
    pub start: Instant,
}

impl Target<'_> {
    /// Makes the image with `make` unless the repository has it; then tags it. Concurrent commands for the same
    /// image wait for the first.
    pub fn obtain(
        &self,
        digest: &Digest,
        verb: &'static str,
        make: impl FnOnce() -> Result<ImageMeta, Failure>,
    ) -> Result<Made, Failure> {
        self.repository.prepare()?;
        let _lock = self.lock(digest);
        // Only now: whoever had the lock may have made it, or removed it.
        if let Some(meta) = self.repository.has(digest) {
            return self.found(meta);
        }
        let meta = make()?;
        self.tag(meta, Status::Made(verb))
    }

    /// Waits while another command makes what `digest` names.
    pub fn lock(&self, digest: &Digest) -> Lock {
        let mut told = false;
        Lock::take(&self.repository.layout().tmp(), digest, |waited| {
            if !told && waited > Duration::from_secs(1) {
                told = true;
                output::note("another command is making this image; waiting for it");
            }
            waited < LOCK_WAIT
        })
    }

    /// An image that is there already.
    fn found(&self, meta: ImageMeta) -> Result<Made, Failure> {
        let same =
            self.repository.tag(self.reference, &self.platform).is_some_and(|t| t.digest == meta.digest);
        self.tag(meta, if same { Status::UpToDate } else { Status::Tagged })
    }

    /// Points the name at an image.
    pub fn tag(&self, meta: ImageMeta, status: Status) -> Result<Made, Failure> {
        let signatures = self.signatures.clone();
        let tag = Tag { digest: meta.digest.clone(), resolved: self.resolved.clone(), signatures };
        if !self.repository.set_tag(self.reference, &self.platform, &tag)? {
            return Err(Failure::System {
                what: format!("{} was removed by another command meanwhile", self.reference.familiar()),
                hint: Some("run the command again".into()),
            });
        }
        Ok(Made {
            reference: self.reference.clone(),
            path: self.repository.layout().image(&meta.digest).display().to_string(),
            digest: meta.digest,
            platform: meta.platform,
            size: meta.size,
            unpacked_size: meta.unpacked_size,
            seconds: self.start.elapsed().as_secs_f64(),
            status,
            signatures: tag.signatures,
        })
    }
}

/// Parses a reference on the command line.
pub fn reference() -> impl TypedValueParser<Value = Reference> {
    StringValueParser::new().try_map(|text| Reference::parse(&text).map_err(one_line))
}

/// Parses a digest on the command line; the bare hex of sha256sum will do.
pub fn digest() -> impl TypedValueParser<Value = Digest> {
    StringValueParser::new().try_map(|text| {
        let hex = text.strip_prefix("sha256:").unwrap_or(&text);
        Digest::parse(&format!("sha256:{}", hex.to_ascii_lowercase())).map_err(one_line)
    })
}

fn platform() -> impl TypedValueParser<Value = Platform> {
    StringValueParser::new().try_map(|text| Platform::parse(&text).map_err(one_line))
}

fn compression() -> impl TypedValueParser<Value = Compression> {
    StringValueParser::new().try_map(|text| {
        let (method, level) = match text.split_once(':') {
            Some((method, level)) => (method, level.parse::<i32>().map(Some).unwrap_or(Some(-1))),
            None => (text.as_str(), None),
        };
        match (method, level) {
            ("zstd", None) => Ok(Compression::Zstd { level: 1 }),
            ("zstd", Some(level @ 1..=22)) => Ok(Compression::Zstd { level }),
            ("gzip", None) => Ok(Compression::Gzip { level: 6 }),
            ("gzip", Some(level @ 1..=9)) => Ok(Compression::Gzip { level: level.unsigned_abs() }),
            ("lz4", None) => Ok(Compression::Lz4),
            _ => Err(format!(
                "'{}' is no compression; use zstd, zstd:1 to zstd:22, lz4, gzip or gzip:1 to gzip:9",
                printable(&text)
            )),
        }
    })
}

/// clap shows an error's Display alone, so the hint is joined to it.
fn one_line(refusal: Refusal) -> String {
    match refusal.hint {
        Some(hint) => format!("{}; {hint}", refusal.what),
        None => refusal.what,
    }
}
