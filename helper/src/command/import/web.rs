//! An import from a web server: what is there already is not fetched, what was broken off goes on, and the bytes are
//! converted while they arrive.

use std::sync::{Arc, OnceLock};

use grus_core::digest::Digest;
use grus_core::refusal::printable;
use reqwest::Url;

use super::Args;
use crate::archive::{open_stream, rootfs_digest, Hashed};
use crate::command::account::settings;
use crate::command::pull::removed;
use crate::command::shared::{Made, Target};
use crate::context::Context;
use crate::digest::digest_of;
use crate::failure::Failure;
use crate::image::Layer;
use crate::output;
use crate::progress::{Progress, Style};
use crate::registry::{self, Client, Held, WebFile};
use crate::repository::{Keep, Kept, Start};

impl Args {
    /// The image in the file at `url`.
    pub(super) fn fetch(
        &self,
        url: &Url,
        context: &Context,
        mut target: Target<'_>,
    ) -> Result<Made, Failure> {
        // Fails early, before anything is fetched, where the repository cannot be written.
        target.repository.prepare()?;
        target.resolved = self.digest.clone();
        // Concurrent commands for one file fetch it once.
        let _lock = self.digest.as_ref().map(|digest| target.lock(digest));
        if let Some(made) = self.unchanged(&target)? {
            return Ok(made);
        }
        let client = Client::new(settings(context, None))?;
        let file = client.find_file(url, self.digest.as_ref())?;
        // Without a digest, nobody could tell whether what was kept is of the same file.
        let mode = if self.digest.is_some() { Keep::Auto } else { Keep::Never };
        let digest = self.digest.clone().unwrap_or_else(|| digest_of(b""));
        let kept = target.repository.kept(mode, &[(digest.clone(), file.size)]);
        kept.used(|held| self.download(&client, (&file, &digest), &kept, held, &target))
    }

    /// The image that came from a file of the stated digest: under this name, or because the file is the image.
    fn unchanged(&self, target: &Target) -> Result<Option<Made>, Failure> {
        let (Some(stated), None) = (&self.digest, &self.select) else { return Ok(None) };
        let tag = target.repository.tag(target.reference, &target.platform);
        let before = tag.filter(|tag| tag.resolved.as_ref() == Some(stated)).map(|tag| tag.digest);
        let found = [before, Some(rootfs_digest(stated, &target.platform))].into_iter().flatten();
        match found.into_iter().find(|digest| target.repository.has(digest).is_some()) {
            Some(digest) => target.obtain(&digest, "imported", || removed(target.reference)).map(Some),
            None => Ok(None),
        }
    }

    fn download(
        &self,
        client: &Client,
        (file, digest): (&WebFile, &Digest),
        kept: &Kept,
        mut held: Vec<Start>,
        target: &Target,
    ) -> Result<Made, Failure> {
        let title = format!("importing {}", self.name.familiar());
        let style = self.making.style();
        let progress = Arc::new(Progress::of_file(style, &title, file.shown(), file.size));
        let held = held.pop().flatten();
        if let Some((len, _)) = &held {
            progress.held(0, *len);
        }
        let held = held.map(|(len, source)| Held { len, source });
        let watch: Arc<dyn registry::Progress> = progress.clone();
        let source = client.download_file(file, held, watch)?;
        let layer = Layer { digest: digest.clone(), size: file.size, source };
        let made = self.convert_stream(kept.keeping(vec![layer]), file, &progress, target);
        progress.clear();
        let (made, content) = made?;
        if let (None, Some(content), Style::Full) = (&self.digest, content.get(), style) {
            output::note(&format!("the file was not checked; --digest {content} has the next import do so"));
        }
        Ok(made)
    }

    /// The image, and the digest of the file it was in.
    fn convert_stream(
        &self,
        layers: Vec<Layer>,
        file: &WebFile,
        progress: &Progress,
        target: &Target,
    ) -> Result<(Made, Arc<OnceLock<Digest>>), Failure> {
        let name = printable(&file.shown());
        let content = Arc::new(OnceLock::new());
        let opened = match layers.first().map(|layer| layer.source.open()) {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return Err(Failure::read(&name, &error)),
            None => return Err(Failure::Cancelled),
        };
        let stream: Box<dyn std::io::Read + Send> = match self.digest {
            // It is hashed anyway.
            Some(_) => opened,
            None => Box::new(Hashed::new(opened, content.clone())),
        };
        let opened = open_stream(stream, &name, &self.wanted(), target.repository)?;
        let style = match opened.is_spooled() {
            true => {
                progress.clear();
                self.making.style()
            }
            // It is converted while it is fetched, and one of both is shown.
            false => Style::Silent,
        };
        Ok((self.make(opened, target, style)?, content))
    }
}
