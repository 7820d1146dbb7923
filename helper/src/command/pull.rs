//! `grus pull`: an image from a registry, in one pass.

use std::sync::Arc;
use std::time::Instant;

use grus_core::digest::Digest;
use grus_core::image::ImageMeta;
use grus_core::reference::Reference;
use grus_core::refusal::{printable, Refusal};

use super::account::{settings, Account};
use super::shared::{reference, Made, Making, Target};
use super::transport::{self, From};
use super::{fetch, import};
use crate::build::build_reusing;
use crate::context::Context;
use crate::failure::Failure;
use crate::image::{Identity, Image, Layer};
use crate::oci::Config;
use crate::output;
use crate::progress::{Progress, Style};
use crate::registry::{address, must_fit, Client, Held, Progress as Watch, Resolved};
use crate::repository::{Keep, Kept, Start};
use crate::reuse::Found;
use crate::signature::Judge;

const EXAMPLES: &str = "\
Examples:
  grus pull ubuntu:24.04
  grus pull nvcr.io/nvidia/pytorch:25.09-py3
  grus pull nvcr.io/nvidia/pytorch:25.09-py3 torch    kept as torch:latest
  grus pull --platform linux/arm64 ubuntu:24.04       for other machines
  grus pull --login registry.example.org/private/app  asks for an account
  grus pull oci-archive:app.tar app:1.0               an import by another name

An image that a policy wants signed is taken only with a good signature:
~/.config/containers/policy.json or /etc/containers/policy.json, and the site's
own (signatures.policy in grus.toml).";

/// Arguments of `grus pull`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// [server[:port]/]name[:tag][@digest]; without a server it is on Docker Hub, without a tag it is 'latest'.
    /// Also docker://REF, oci:DIR[:TAG], oci-archive:FILE[:TAG] and docker-archive:FILE[:REF]
    #[arg(value_name = "REF")]
    source: String,
    /// What to call the image here, if not by its own name
    #[arg(value_name = "NAME[:TAG]", value_parser = reference())]
    name: Option<Reference>,
    /// Ask for an account at the registry
    #[arg(long)]
    login: bool,
    #[command(flatten)]
    account: Account,
    /// Which layers are kept as they are, to take up an interrupted pull or to be shared by other images
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Keep::Auto)]
    keep_layers: Keep,
    #[command(flatten)]
    making: Making,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match transport::parse(&self.source) {
            From::Registry(name) if address(&name)?.is_some() => {
                let name = printable(&name);
                Err(Refusal::user(format!("{name} is a web address, not the name of an image"))
                    .hint(format!(
                        "leave the https:// out; a file is fetched by: grus import {name} NAME[:TAG]"
                    ))
                    .into())
            }
            From::Registry(name) => Pull::new(&self, Reference::parse(&name)?)?.run(context),
            From::Local(path, image) => {
                let own = image.as_deref().and_then(|image| Reference::parse(image).ok());
                // A tag alone, as in oci:DIR:TAG, is a poor name.
                let own = own.filter(|_| image.as_deref().is_some_and(|image| image.contains([':', '/'])));
                let name = self.name.or(own).ok_or_else(|| {
                    Refusal::user(format!("{} does not say what to call the image", printable(&self.source)))
                        .hint(format!("add a name: grus pull {} NAME[:TAG]", printable(&self.source)))
                })?;
                import::Args::new(path, name, image, self.making).run(context)
            }
        }
    }
}

/// A pull from a registry.
struct Pull<'a> {
    args: &'a Args,
    /// At the registry.
    remote: Reference,
    /// In the repository.
    local: Reference,
}

impl<'a> Pull<'a> {
    fn new(args: &'a Args, remote: Reference) -> Result<Self, Failure> {
        let local = match &args.name {
            Some(name) if name.digest.is_some() => {
                return Err(Refusal::user(format!("{} cannot be a name here", name.familiar()))
                    .hint("a digest belongs to its image; give NAME[:TAG] only")
                    .into())
            }
            Some(name) => name.clone(),
            None => remote.clone(),
        };
        Ok(Self { args, remote, local })
    }

    fn run(&self, context: &Context) -> Result<(), Failure> {
        let repository = context.repository()?;
        let making = &self.args.making;
        let mut target = Target {
            repository: &repository,
            reference: &self.local,
            platform: making.platform(),
            resolved: None,
            signatures: vec![],
            start: Instant::now(),
        };
        // Fails early, before anything is fetched, where the repository cannot be written.
        repository.prepare()?;
        let asked = self.args.login || self.args.account.given();
        let login = asked.then(|| self.args.account.ask(&self.remote.registry)).transpose()?;
        let settings = settings(context, login);
        let judge = Judge::new(&context.site, &settings.paths)?;
        let signed = judge.admits(&self.remote)?;
        let client = Arc::new(Client::new(settings)?);
        // What is here may be from before a policy came, or changed: where signatures are wanted, they are asked for.
        if !signed {
            if let Some(made) = self.unchanged(&mut target, &client)? {
                return making.report(&made);
            }
        }
        let resolved = client.resolve(&self.remote, &target.platform)?;
        if making.style() == Style::Full {
            resolved.notes.iter().for_each(|note| output::note(note));
        }
        target.resolved = Some(resolved.top_digest().clone());
        target.signatures = judge.verify(&client, &resolved)?;
        let fetch = || {
            let layers: Vec<Digest> = resolved.layers.iter().map(|l| l.digest.clone()).collect();
            let found = Found::look(&context.lookup()?, &resolved.digest, &layers);
            self.fetch(&client, &resolved, &target, &found)
        };
        let made = target.obtain(&resolved.digest, "pulled", fetch)?;
        making.report(&made)
    }

    /// The image that the tag already names, if the registry still says the same: one request, or none for a
    /// digest.
    fn unchanged(&self, target: &mut Target, client: &Client) -> Result<Option<Made>, Failure> {
        let found = self.remote.digest.as_ref().and_then(|d| Some((d, target.repository.has(d)?)));
        if let Some((digest, meta)) = found {
            // A digest may be another platform's; the registry, which would refuse it, is not asked.
            must_fit(&meta.platform, &target.platform, &self.remote.familiar())?;
            return target.obtain(digest, "pulled", || removed(&self.local)).map(Some);
        }
        let Some(tag) = target.repository.tag(&self.local, &target.platform) else { return Ok(None) };
        let (Some(before), Some(_)) = (&tag.resolved, target.repository.has(&tag.digest)) else {
            return Ok(None);
        };
        let now = match &self.remote.digest {
            // What a digest names does not change.
            Some(digest) => digest.clone(),
            None => client.head(&self.remote)?,
        };
        if now != *before {
            return Ok(None);
        }
        target.resolved = Some(now);
        target.obtain(&tag.digest, "pulled", || removed(&self.local)).map(Some)
    }

    /// Downloads what is not `found` and converts, going on where an earlier pull ended.
    fn fetch(
        &self,
        client: &Arc<Client>,
        resolved: &Resolved,
        target: &Target,
        found: &Found,
    ) -> Result<ImageMeta, Failure> {
        let layers: Vec<(Digest, u64)> = resolved.layers.iter().map(|l| (l.digest.clone(), l.size)).collect();
        let kept = target.repository.kept(self.args.keep_layers, &layers);
        kept.used(|held| self.convert(client, resolved, target, (found, &kept), held))
    }

    fn convert(
        &self,
        client: &Arc<Client>,
        resolved: &Resolved,
        target: &Target,
        (found, kept): (&Found, &Kept),
        held: Vec<Start>,
    ) -> Result<ImageMeta, Failure> {
        let name = self.remote.familiar();
        let config = Config::parse(&resolved.config, &format!("the configuration of {name}"))?;
        let sizes = resolved.layers.iter().map(|l| (l.digest.to_string(), l.size));
        let progress = Arc::new(Progress::new(self.args.making.style(), &format!("pulling {name}"), sizes));
        for (layer, (len, _)) in held.iter().enumerate().filter_map(|(n, h)| Some((n, h.as_ref()?))) {
            progress.held(layer, *len);
        }
        let held = held.into_iter().map(|h| h.map(|(len, source)| Held { len, source })).collect();
        let watch: Arc<dyn Watch> = progress.clone();
        let digests: Vec<Digest> = resolved.layers.iter().map(|l| l.digest.clone()).collect();
        let sources = fetch::sources(client, resolved, held, &found.layers(&digests), &watch)?;
        let layers = resolved.layers.iter().zip(sources);
        let layers = layers
            .map(|(layer, source)| Layer { digest: layer.digest.clone(), size: layer.size, source })
            .collect();
        let image = Image {
            identity: Identity::Known(resolved.digest.clone()),
            platform: resolved.platform.clone(),
            config,
            layers: kept.keeping(layers),
        };
        let options = self.args.making.options();
        let image = (&resolved.digest, image);
        let built = build_reusing(target.repository, image, found, &self.local, &options, progress.as_ref());
        progress.clear();
        built
    }
}

/// An image that was there a moment ago and is now removed by another command.
pub(super) fn removed(reference: &Reference) -> Result<ImageMeta, Failure> {
    Err(Failure::System {
        what: format!("{} was removed by another command meanwhile", reference.familiar()),
        hint: Some("run the command again".into()),
    })
}
