//! The host's MPI stack in a plan (D9): the binds, links and texts of a [`Swap`] that was decided and proved.

use super::decide::{Draft, Launch};
use super::resolve::{locate, Located};
use super::{Kind, Make, Op, Opener};
use crate::ldcache;
use crate::path::AbsPath;
use crate::refusal::{printable, Refusal};
use crate::swap::{Extent, Mode, Swap, LIBRARY_DIR};

impl Draft<'_> {
    /// Plans the launch's swap, after all binds that others want. Returns it if it is carried out.
    ///
    /// Its sources are opened as the user: a swap may have been sent by one.
    pub fn stack<'l>(&mut self, launch: &Launch<'l>) -> Result<Option<&'l Swap>, Refusal> {
        let Some(swap) = launch.swap.filter(|swap| swap.extent != Extent::Nothing) else { return Ok(None) };
        if let Some((library, mount)) = self.covered(swap)? {
            let stack = printable(&swap.stack);
            let why =
                format!("{library}, which host stack '{stack}' would replace, lies below the mount {mount}");
            let mode = launch.request.mpi.as_ref().unwrap_or(&launch.site.mpi.default);
            if *mode == Mode::Auto {
                self.warnings.push(format!("the image's own MPI runs: {why}"));
                return Ok(None);
            }
            return Err(Refusal::user(why).hint("mount elsewhere, or pass --container-mpi=image"));
        }
        let asked = |source: &AbsPath| Source { path: source.clone(), stack: &swap.stack };
        for extra in &swap.extras {
            self.host_bind(asked(&extra.source), &extra.destination, extra.optional)?;
        }
        for bind in &swap.over {
            self.host_bind(asked(&bind.source), &bind.destination, false)?;
        }
        let dir = AbsPath::parse(LIBRARY_DIR)?;
        for (name, source) in &swap.files {
            self.host_bind(asked(source), &dir.join(name), false)?;
        }
        if !swap.links.is_empty() {
            let Located { path: dir, .. } = locate(self.rootfs, &dir)?;
            for (name, target) in &swap.links {
                self.make(&dir.join(name), Make::Link(target.clone()))?;
            }
        }
        self.text("/etc/ld.so.cache", ldcache::MAX_CACHE, |image| swap.cache(ldcache::parse(image).ok()))?;
        Ok(Some(swap))
    }

    /// A path that the swap needs to be the image's, and the mount that hides it.
    fn covered(&self, swap: &Swap) -> Result<Option<(AbsPath, AbsPath)>, Refusal> {
        let own = AbsPath::parse(LIBRARY_DIR)?;
        let placed = !(swap.files.is_empty() && swap.links.is_empty());
        for path in swap.over.iter().map(|b| &b.destination).chain(placed.then_some(&own)) {
            let at = locate(self.rootfs, path)?.path;
            let hides = |op: &&Op| matches!(op, Op::Bind { destination, .. } if at.is_within(destination));
            if let Some(mount) = self.mounts.iter().find(hides) {
                return Ok(Some((path.clone(), mount.destination().clone())));
            }
        }
        Ok(None)
    }

    fn host_bind(&mut self, source: Source, destination: &AbsPath, optional: bool) -> Result<(), Refusal> {
        let kind = match self.host.source(&source.path, Opener::User) {
            Ok(kind) => kind,
            Err(_) if optional => return Ok(()),
            Err(reason) => {
                return Err(Refusal::site(format!(
                    "host stack '{}' is incomplete: {}: {reason}",
                    printable(source.stack),
                    source.path
                ))
                .hint("--container-mpi=image runs the image's own MPI; the administrator checks the stack on this node"))
            }
        };
        // A mount of the site may have brought it already.
        let at = locate(self.rootfs, destination)?.path;
        if let Some((from, around, _)) = self.bind_around(&at) {
            let below = at.components().skip(around.depth());
            if below.fold(from, |path, name| path.join(name)) == source.path {
                return Ok(());
            }
        }
        let destination = self.place(destination, kind == Kind::Directory)?;
        self.mounts.push(Op::Bind {
            source: source.path,
            destination,
            readonly: true,
            devices: false,
            opener: Opener::User,
        });
        Ok(())
    }
}

/// A file or directory of a stack.
struct Source<'a> {
    path: AbsPath,
    stack: &'a str,
}
