//! `grus explain`: which of the host's libraries an image would get, which of the site's modules, which not, and why.

use std::collections::BTreeSet;
use std::path::Path;

use grus_core::options::Opt;
use grus_core::plan::{fits, wish, Fit};
use grus_core::refusal::{printable, Refusal};
use grus_core::request::{Image, Request};
use grus_core::stack::Stack;
use grus_core::swap::{decide, Answer, Brought, Decision, InUse, Mode, Wish};
use grus_enter::cdi;
use grus_enter::site::Profiles;

use super::launch_options::{image_option, LaunchOptions};
use super::libraries::{profile, profiles, ruling, Looked};
use super::modules::{self, Judged};
use super::plan::{file, in_repository, Found, OwnView};
use crate::context::{working_directory, Context};
use crate::failure::Failure;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  grus explain app:1
  grus explain app:1 --module=cxi
  grus explain ./app.squashfs --stack intel-mpi
  grus explain app:1 --stack ./draft.toml --json | jq .outcome

The drivers of this host's devices (CDI files) are compared with the image's C
library, too, and the site's modules are listed: which come here, and whether
their libraries fit.
An image with MPI is compared with the host's stacks, symbol by symbol and
version by version. The administrator describes them with 'grus host scan'.
Nothing is mounted and nothing is run. A stack that was asked for and does not
fit is a failure; with 'auto' the image's own MPI stays.";

/// Arguments of `grus explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image, as for srun's --container-image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Judge this host stack only: its name, or the file of a profile
    #[arg(long, value_name = "NAME|FILE")]
    stack: Option<String>,
    /// Whose MPI is wanted: the host's where it fits (auto), the host's (host), the image's (image), or the
    /// image's on the host's libfabric (fabric) [default: the site's choice; with --stack: that stack's]
    #[arg(long, value_name = "auto|host|image|fabric")]
    mpi: Option<String>,
    /// With these modules of the site, as for --container-module
    #[arg(long, value_name = "NAME,...")]
    module: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Answer the plugin: a ruling for this --container-mpi
    #[arg(long, hide = true, value_name = "MODE")]
    for_launch: Option<String>,
    /// A stack that a module brings and that comes first
    #[arg(long, hide = true, value_name = "MODULE=STACK", requires = "for_launch")]
    first: Option<String>,
    /// The image's name, for messages
    #[arg(long, hide = true, value_name = "NAME", requires = "for_launch")]
    name: Option<String>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(mode) = &self.for_launch {
            return self.answer(context, mode);
        }
        let mut request = self.request()?;
        let found = find(context, &request)?;
        let stacks = self.stacks(context)?;
        request.mpi = self.mode(&stacks)?;
        let looked = Looked::at(&found, &printable(&self.image))?;
        let wish = wish(&request, &context.site, Some((looked.tree(), &OwnView)))?;
        let mut decision = looked.ask(context, &stacks, &wish, decide);
        decision.result = decision.result.map_err(|why| wish.told(why));
        let modules = modules::judge(context, &request, &looked, &decision)?;
        let devices = fits(&cdi::load(&context.site.cdi.dirs()), looked.tree(), &OwnView);
        self.tell(&decision, &modules, &devices, &stacks, &context.stacks_dir())
    }

    /// What the plugin asks at submission: the ruling, or the refusal, as one line of JSON.
    fn answer(&self, context: &Context, mode: &str) -> Result<(), Failure> {
        let name = self.name.as_deref().unwrap_or(&self.image);
        let ruled = || {
            let found = find(context, &self.request()?)?;
            let first = self.first.as_deref().and_then(Brought::parse);
            ruling(context, &found, &printable(name), &Wish::from(Mode::parse(mode)?).after(first))
        };
        let answer = match ruled() {
            Ok(ruling) => ruling.map(Ok),
            Err(Failure::Refusal(refusal)) => Some(Err(refusal)),
            Err(failure) => return Err(failure),
        };
        output::print(&format!("{}\n", answer.map_or("null".into(), |a| Answer::from(a).to_json())))
    }

    fn request(&self) -> Result<Request, Failure> {
        let cwd = working_directory()?;
        let mut request = LaunchOptions::default().request(Some(&self.image), &cwd)?;
        if let Some(modules) = &self.module {
            request.set(Opt::Module, modules, &cwd)?;
        }
        Ok(request)
    }

    /// The stack that was named, else all of the site's.
    fn stacks(&self, context: &Context) -> Result<Vec<Stack>, Failure> {
        let dir = context.stacks_dir();
        match &self.stack {
            Some(file) if file.contains('/') || file.ends_with(".toml") => {
                let path = Path::new(file);
                Ok(Profiles::of(vec![(path.into(), profile(path)?)]).parse()?)
            }
            _ => Ok(profiles(&dir)?.parse()?),
        }
    }

    fn mode(&self, stacks: &[Stack]) -> Result<Option<Mode>, Failure> {
        let word = match (&self.mpi, &self.stack) {
            (Some(word), _) => match word.as_str() {
                "auto" | "host" | "image" | "fabric" => word.as_str(),
                other => {
                    return Err(Refusal::user(format!("there is no --mpi={}", printable(other)))
                        .hint("give auto, host, image or fabric; a stack is named by --stack")
                        .into())
                }
            },
            (None, None) => return Ok(None),
            (None, Some(stack)) => match stacks {
                // A file is a stack by itself, under whatever name.
                [one] if stack.contains('/') || stack.ends_with(".toml") => one.name.as_str(),
                _ => stack.as_str(),
            },
        };
        Ok(Some(Mode::parse(word)?))
    }

    fn tell(
        &self,
        decision: &Decision,
        modules: &[Judged],
        devices: &[Fit],
        stacks: &[Stack],
        dir: &Path,
    ) -> Result<(), Failure> {
        if self.json {
            let mut all = decision.to_json();
            all["modules"] = serde_json::to_value(modules).unwrap_or_default();
            all["devices"] = serde_json::to_value(devices).unwrap_or_default();
            output::json(&all)?;
        } else {
            // A refusal is told at the end, as of every command.
            let text = decision.to_string();
            let shown = match &decision.result {
                Ok(_) => text,
                Err(refusal) => {
                    text.split(&format!("\nRefused: {refusal}")).next().unwrap_or_default().to_owned()
                }
            };
            let mut text = shown;
            if !decision.found.is_empty() && decision.result.is_ok() {
                let lines: BTreeSet<String> = decision.in_use.iter().map(launched).collect();
                text.extend(lines);
            }
            if stacks.is_empty() {
                text.push_str(&format!(
                    "\nThis site has no host stacks in {}; the administrator makes them with 'grus host scan'.\n",
                    printable(&dir.display().to_string())
                ));
            }
            text.push_str(&modules::shown(modules));
            text.extend(devices.iter().map(fit));
            output::print(&output::folded(&text, 4))?;
        }
        match &decision.result {
            Ok(_) => Ok(()),
            Err(refusal) => Err(refusal.clone().into()),
        }
    }
}

fn find(context: &Context, request: &Request) -> Result<Found, Failure> {
    match &request.image {
        Some(Image::Reference(reference)) => in_repository(context, reference),
        Some(Image::File(path)) => file(path),
        Some(Image::None) | None => Err(Refusal::user("no image is named")
            .hint(format!("write a name or a path, as for --{}", image_option()))
            .into()),
    }
}

/// How a driver fits.
fn fit(fit: &Fit) -> String {
    let mut text = format!(
        "\nDevices {} of {}: {} programs and libraries fit the image.\n",
        fit.kind, fit.file, fit.fitting
    );
    text.extend(fit.lacking.iter().map(|(file, why)| format!("  does not fit: {file} needs {why}\n")));
    text.extend(fit.missing.iter().map(|file| format!("  not on this host: {file}\n")));
    text
}

fn launched(mpi: &InUse) -> String {
    let words: Vec<String> = mpi.pmi.iter().map(|p| format!("--mpi={}", p.word())).collect();
    format!("launch    {} with srun {}\n", printable(&mpi.label), words.join(" or "))
}
