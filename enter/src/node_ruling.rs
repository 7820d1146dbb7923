//! Which ruling about the image's MPI holds on this node (ADR 9): the one that was sent, if this node has the profiles
//! it was decided by; else a new one, from the facts beside the image.

use std::path::Path;

use grus_core::elf::{ImageFacts, MAX_FACTS};
use grus_core::image::ImageConfig;
use grus_core::plan::{self, exists, Host, Opener, Rootfs};
use grus_core::repository::Layout;
use grus_core::swap::{Mode, Question, Ruling, Wish};
use grus_core::Refusal;

use crate::builder::Inputs;
use crate::call::During;
use crate::credentials::Credentials;
use crate::failure::{Failure, Phase};
use crate::read::{small, Small};
use crate::site::Profiles;

/// The ruling that holds; `None` where nothing was decided and nothing of the host is wanted. `name` is the image's,
/// for messages.
pub(crate) fn ruling(
    inputs: &Inputs,
    credentials: &Credentials,
    (tree, host): (&dyn Rootfs, &dyn Host),
    config: &ImageConfig,
    name: &str,
) -> Result<Option<Ruling>, Failure> {
    let (request, site) = (&inputs.request, &inputs.site);
    let wish = plan::wish(request, site, Some((tree, host)))?;
    // Modules that submission could not know of make another question of it.
    let sent = match plan::wish(request, site, None).is_ok_and(|then| then == wish) {
        true => request.ruling.as_deref(),
        false => {
            let of_module =
                request.module_ruling.as_deref().filter(|of| Some(&of.first) == wish.first.as_ref());
            of_module.map(|of| &of.ruling)
        }
    };
    if wish.is_image() || sent.is_some_and(|ruling| ruling.profiles.is_none()) {
        return Ok(sent.cloned());
    }
    let profiles = match &inputs.stacks {
        Some(dir) => Profiles::load(dir)?,
        None => Profiles::of(vec![]),
    };
    if let Some(ruling) = sent.filter(|ruling| ruling.holds(profiles.digest())) {
        return Ok(Some(ruling.clone()));
    }
    if profiles.is_empty() && wish.is_auto() {
        return Ok(None);
    }
    let Some(facts) = facts(inputs.image.as_path(), credentials)? else {
        return unknown(&wish, &profiles, name).map(Some).map_err(Failure::from);
    };
    let stacks = profiles.parse()?;
    let question = Question {
        image: &facts,
        library_path: &config.library_path(),
        image_name: name,
        stacks: &stacks,
        first: wish.first.as_ref(),
        mode: &wish.mode,
        glibc: inputs.site.mpi.glibc,
        taken: &|path| exists(tree, path),
    };
    Ok(Some(Ruling::decide(&question, profiles.digest().clone()).map_err(|why| wish.told(why))?))
}

/// The facts beside the image, read as the user; those of another version or of nobody count as none.
fn facts(image: &Path, credentials: &Credentials) -> Result<Option<ImageFacts>, Failure> {
    let path = Layout::facts_beside(image);
    credentials.switch(Opener::User).during(Phase::Credentials)?;
    let read = small(&path, MAX_FACTS);
    credentials.switch(Opener::Site).during(Phase::Credentials)?;
    match read {
        Ok(Small::Bytes(text)) => Ok(ImageFacts::parse(&text, &path.to_string_lossy()).ok()),
        _ => Ok(None),
    }
}

/// Without facts nothing can be proved.
fn unknown(wish: &Wish, profiles: &Profiles, name: &str) -> Result<Ruling, Refusal> {
    let why = format!(
        "image {name}: its libraries were not inspected, so no host stack of this node can be proved to fit"
    );
    match wish.mode {
        Mode::Auto | Mode::Image => Ok(Ruling::unknown(profiles.digest().clone(), format!("the image's own MPI runs: {why}"))),
        _ => Err(wish.told(Refusal::user(why).hint(
            "this node's host stacks differ from those of the submitting host; 'grus pull' or 'grus import' the image",
        ))),
    }
}
