//! `grus pull`: an image from a registry, in one pass.

use std::sync::Arc;
use std::time::Instant;

use grus_core::reference::Reference;

use super::shared::{reference, Making, Target};
use crate::build::{build, Identity, Image, Layer};
use crate::context::Context;
use crate::failure::Failure;
use crate::oci::Config;
use crate::progress::Progress;
use crate::registry::{Client, Progress as Watch, Resolved, Settings};

const EXAMPLES: &str = "\
Examples:
  grus pull ubuntu:24.04
  grus pull nvcr.io/nvidia/pytorch:25.09-py3
  grus pull --platform linux/arm64 ubuntu:24.04     for nodes of another architecture
  grus pull -q alpine                               print the digest only";

/// Arguments of `grus pull`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// [server[:port]/]name[:tag][@digest]; without a server it is on Docker Hub, without a tag it is 'latest'
    #[arg(value_name = "REF", value_parser = reference())]
    name: Reference,
    #[command(flatten)]
    making: Making,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let repository = context.repository()?;
        let settings = Settings { plain_http: context.site.pull.plain_http.clone(), ..Settings::default() };
        let platform = self.making.platform();
        let mut target = Target {
            repository: &repository,
            reference: &self.name,
            platform: platform.clone(),
            resolved: None,
            start: Instant::now(),
        };
        // Fails early, before anything is fetched, where the repository cannot be written.
        repository.prepare()?;
        let client = Client::new(settings)?;
        if let Some(made) = self.unchanged(&mut target, &client)? {
            return self.making.report(&made);
        }
        let resolved = client.resolve(&self.name, &platform)?;
        target.resolved = Some(resolved.top_digest().clone());
        let made = target.obtain(&resolved.digest, "pulled", || self.fetch(&client, &resolved, &target))?;
        self.making.report(&made)
    }

    /// The image that the tag already names, if the registry still says the same: one request, or none for a
    /// digest.
    fn unchanged(
        &self,
        target: &mut Target,
        client: &Client,
    ) -> Result<Option<super::shared::Made>, Failure> {
        if let Some(digest) = self.name.digest.as_ref().filter(|d| target.repository.has(d).is_some()) {
            return target.obtain(digest, "pulled", || removed(&self.name)).map(Some);
        }
        let Some(tag) = target.repository.tag(&self.name, &target.platform) else { return Ok(None) };
        let (Some(before), Some(_)) = (&tag.resolved, target.repository.has(&tag.digest)) else {
            return Ok(None);
        };
        // What a digest names does not change.
        if self.name.digest.is_none() && client.head(&self.name)? != *before {
            return Ok(None);
        }
        target.resolved = Some(before.clone());
        target.obtain(&tag.digest, "pulled", || removed(&self.name)).map(Some)
    }

    fn fetch(
        &self,
        client: &Client,
        resolved: &Resolved,
        target: &Target,
    ) -> Result<grus_core::image::ImageMeta, Failure> {
        let name = self.name.familiar();
        let config = Config::parse(&resolved.config, &format!("the configuration of {name}"))?;
        let sizes = resolved.layers.iter().map(|l| (l.digest.to_string(), l.size));
        let progress = Arc::new(Progress::new(self.making.style(), &format!("pulling {name}"), sizes));
        let watch: Arc<dyn Watch> = progress.clone();
        let sources = client.download(resolved, watch)?;
        let layers = resolved.layers.iter().zip(sources);
        let layers = layers
            .map(|(layer, source)| Layer { digest: layer.digest.clone(), size: layer.size, source })
            .collect();
        let image = Image {
            identity: Identity::Known(resolved.digest.clone()),
            platform: resolved.platform.clone(),
            config,
            layers,
        };
        let built = build(target.repository, image, &self.name, &self.making.options(), progress.as_ref());
        progress.clear();
        built
    }
}

/// An image that was there a moment ago and is now removed by another command.
fn removed(reference: &Reference) -> Result<grus_core::image::ImageMeta, Failure> {
    Err(Failure::System {
        what: format!("{} was removed by another command meanwhile", reference.familiar()),
        hint: Some("run the command again".into()),
    })
}
