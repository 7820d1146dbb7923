//! The host's MPI stack in a plan (ADR 9): the binds, links and texts of a [`Swap`] that was decided and proved.

use super::decide::Launch;
use super::draft::{below, Draft};
use super::resolve::locate;
use super::seen::CACHE;
use super::{Kind, Make, Op, Opener, Unavailable};
use crate::ldcache;
use crate::module::Active;
use crate::path::AbsPath;
use crate::refusal::{printable, Refusal};
use crate::swap::{Extent, ExtraBind, Mode, Swap, LIBRARY_DIR};

impl Draft<'_> {
    /// Plans the launch's swap, after all binds that others want. Returns it if it is carried out.
    ///
    /// Its sources are opened as the user: a swap may have been sent by one.
    pub fn stack<'l>(
        &mut self,
        launch: &Launch<'l>,
        modules: &[Active],
    ) -> Result<Option<&'l Swap>, Refusal> {
        let Some(swap) = launch.swap.filter(|swap| swap.extent != Extent::Nothing) else { return Ok(None) };
        if let Some((library, mount)) = self.covered(swap)? {
            let stack = printable(&swap.stack);
            let why =
                format!("{library}, which host stack '{stack}' would replace, lies below the mount {mount}");
            if !wanted(launch, modules, &swap.stack) {
                self.warnings.push(format!("the image's own MPI runs: {why}"));
                return Ok(None);
            }
            return Err(Refusal::user(why).hint("mount elsewhere, or pass --container-mpi=image"));
        }
        let incomplete = |path: &AbsPath, reason| incomplete(&swap.stack, path, reason);
        for extra in &swap.extras {
            match self.host.source(&extra.source, Opener::User) {
                Ok(kind) => self.host_bind(extra, kind, &swap.extras)?,
                Err(_) if extra.optional => {}
                Err(reason) => return Err(incomplete(&extra.source, reason)),
            }
        }
        if let Some((path, reason)) = self.host.missing(&swap.needs, Opener::User) {
            return Err(incomplete(&path, reason));
        }
        let dir = AbsPath::parse(LIBRARY_DIR)?;
        let new = swap.links.iter().map(|(name, target)| (dir.join(name), target));
        for (path, target) in swap.over.iter().map(|(path, target)| (path.clone(), target)).chain(new) {
            let (Some(above), Some(name)) = (path.parent(), path.components().next_back()) else { continue };
            let at = locate(self.rootfs, &above)?.path.join(name);
            self.make(&at, Make::Link(target.clone()))?;
        }
        match swap.seen.cache() {
            Some(finished) => self.finished(CACHE, finished)?,
            None => self.text(CACHE, ldcache::MAX_CACHE, |image| swap.cache(ldcache::parse(image).ok()))?,
        }
        Ok(Some(swap))
    }

    /// A path that the swap needs to be the image's, and the mount that hides it.
    fn covered(&self, swap: &Swap) -> Result<Option<(AbsPath, AbsPath)>, Refusal> {
        let own = AbsPath::parse(LIBRARY_DIR)?;
        for path in swap.over.keys().chain((!swap.links.is_empty()).then_some(&own)) {
            let (Some(above), Some(name)) = (path.parent(), path.components().next_back()) else { continue };
            let at = locate(self.rootfs, &above)?.path.join(name);
            let hides = |op: &&Op| !matches!(op, Op::Volatile { .. }) && at.is_within(op.destination());
            if let Some(mount) = self.mounts.iter().find(hides) {
                return Ok(Some((path.clone(), mount.destination().clone())));
            }
        }
        Ok(None)
    }

    /// Brings a file or directory of the host in, one of `all`.
    fn host_bind(&mut self, extra: &ExtraBind, kind: Kind, all: &[ExtraBind]) -> Result<(), Refusal> {
        let ExtraBind { source, destination, .. } = extra;
        let at = locate(self.rootfs, destination)?.path;
        match self.around(&at) {
            // A mount of the site may have brought it already.
            Some(Op::Bind { source: from, destination: around, .. })
                if below(&at, around, from) == *source =>
            {
                return Ok(());
            }
            Some(_) => {}
            // A link costs less than a mount, whose place must be looked up in the image.
            None => {
                let around =
                    |e: &&ExtraBind| !e.optional && source != &e.source && source.is_within(&e.source);
                if let Some(around) = all.iter().find(around) {
                    return self.make(&at, Make::Link(below(source, &around.source, &around.destination)));
                }
            }
        }
        let destination = self.place(destination, kind == Kind::Directory)?;
        self.mounts.push(Op::Bind {
            source: source.clone(),
            destination,
            recursive: true,
            readonly: true,
            noexec: false,
            devices: false,
            opener: Opener::User,
        });
        Ok(())
    }
}

/// Whether somebody asked for this stack, rather than took what fits.
fn wanted(launch: &Launch, modules: &[Active], stack: &str) -> bool {
    let said = launch.request.mpi.as_ref().is_some_and(|mode| *mode != Mode::Auto);
    match modules.iter().find(|active| active.module.stack() == Some(stack)) {
        Some(module) if !said => module.asked,
        Some(_) => true,
        None => *launch.request.mpi.as_ref().unwrap_or(&launch.site.mpi.default) != Mode::Auto,
    }
}

fn incomplete(stack: &str, path: &AbsPath, reason: Unavailable) -> Refusal {
    Refusal::site(format!("host stack '{}' is incomplete: {path}: {reason}", printable(stack))).hint(
        "--container-mpi=image runs the image's own MPI; the administrator checks the stack on this node",
    )
}
