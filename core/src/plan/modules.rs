//! Which of the site's modules a container gets, and whose libraries with them.

use serde::Serialize;

use super::resolve::locate;
use super::{Host, Opener, Rootfs};
use crate::module::{active, bring_libraries, Active, Module, ModuleName, Surroundings, When};
use crate::mount::What;
use crate::path::AbsPath;
use crate::refusal::Refusal;
use crate::request::Request;
use crate::site::Site;
use crate::swap::{Swap, Wish};

/// A node, or what can be seen of one, with an image.
struct Around<'a>(&'a dyn Rootfs, &'a dyn Host);

impl Surroundings for Around<'_> {
    fn device(&self, path: &AbsPath) -> bool {
        self.1.source(path, Opener::Site).is_ok()
    }

    fn image(&self, path: &AbsPath) -> bool {
        locate(self.0, path).is_ok_and(|located| located.entry.is_some())
    }
}

/// Whose libraries are wanted, by the request, the site's modules and its default. Without `around` as far as submission
/// can know it; where that is something else than a node knows, the node decides anew.
pub fn wish(
    request: &Request,
    site: &Site,
    around: Option<(&dyn Rootfs, &dyn Host)>,
) -> Result<Wish, Refusal> {
    let (said, default) = (request.mpi.as_ref(), &site.mpi.default);
    if !bring_libraries(&site.module) {
        return Wish::of(said, default, &[]);
    }
    let around = around.map(|(rootfs, host)| Around(rootfs, host));
    let around = around.as_ref().map(|around| around as &dyn Surroundings);
    Wish::of(said, default, &active(&site.module, request.modules.as_ref(), around)?)
}

/// Whose libraries are wanted on a node that has every device, with an image that has everything: where this is not what
/// submission knows, it decides this case, too, so that nodes need not.
pub fn fullest_wish(request: &Request, site: &Site) -> Result<Wish, Refusal> {
    struct All;
    impl Surroundings for All {
        fn device(&self, _: &AbsPath) -> bool {
            true
        }

        fn image(&self, _: &AbsPath) -> bool {
            true
        }
    }
    let modules = match bring_libraries(&site.module) {
        true => active(&site.module, request.modules.as_ref(), Some(&All))?,
        false => vec![],
    };
    Wish::of(request.mpi.as_ref(), &site.mpi.default, &modules)
}

/// The modules that the container gets with this swap. One that came by itself is nothing without its libraries: its
/// variables would speak of a fabric that the image's own libraries need not have.
pub fn modules<'a>(
    request: &Request,
    site: &'a Site,
    swap: Option<&Swap>,
    rootfs: &dyn Rootfs,
    host: &dyn Host,
) -> Result<Vec<Active<'a>>, Refusal> {
    let mut all = active(&site.module, request.modules.as_ref(), Some(&Around(rootfs, host)))?;
    let brings = |stack| swap.is_some_and(|swap| swap.stack == stack);
    all.retain(|active| active.asked || active.module.stack().is_none_or(brings));
    Ok(all)
}

/// How a module of the site stands to a container, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The module.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// Whether the container gets it.
    pub comes: bool,
    /// Why, or why not.
    pub why: String,
    /// The host stack whose libraries it brings.
    pub stack: Option<String>,
    /// Sources of its binds that this host lacks.
    pub missing: Vec<AbsPath>,
}

/// Each module of the site, with this image on this host. Whether its libraries fit is not looked at.
pub fn standings(
    request: &Request,
    site: &Site,
    rootfs: &dyn Rootfs,
    host: &dyn Host,
) -> Result<Vec<Standing>, Refusal> {
    let around = Around(rootfs, host);
    let all = active(&site.module, request.modules.as_ref(), Some(&around))?;
    let only = request.modules.as_ref().is_some_and(|asked| asked.only);
    let standing = |(name, module): (&ModuleName, &Module)| {
        let active = all.iter().find(|active| active.name == name);
        let lacks = |path: &AbsPath| host.source(path, Opener::Site).is_err();
        let source = |what| match what {
            What::Bind { source, .. } => Some(source),
            _ => None,
        };
        Standing {
            name: name.as_str().to_owned(),
            about: module.about.clone(),
            comes: active.is_some(),
            why: match active {
                Some(active) => reason(active, &around),
                None => obstacle(module, only, &around).into(),
            },
            stack: module.stack().map(str::to_owned),
            missing: module
                .mounts()
                .into_iter()
                .filter_map(|mount| source(mount.what))
                .filter(lacks)
                .collect(),
        }
    };
    Ok(site.module.iter().map(standing).collect())
}

fn reason(active: &Active, around: &Around) -> String {
    let module = active.module;
    let there = match module.when {
        _ if active.asked => return "it is asked for".into(),
        When::IfDevicePresent => module.devices.iter().find(|path| around.device(path)),
        When::IfImageHas => module.image_has.iter().find(|path| around.image(path)),
        _ => None,
    };
    match (module.when, there) {
        (When::IfDevicePresent, Some(path)) => format!("this host has {path}"),
        (_, Some(path)) => format!("the image has {path}"),
        _ => "every container gets it".into(),
    }
}

fn obstacle(module: &Module, only: bool, around: &Around) -> &'static str {
    let device = module.devices.is_empty() || module.devices.iter().any(|path| around.device(path));
    let image = module.image_has.is_empty() || module.image_has.iter().any(|path| around.image(path));
    match module.when {
        When::OnRequest => "only on request",
        _ if only => "only those are wanted that are asked for",
        _ if !device => "this host has none of its devices",
        _ if !image => "the image has nothing that it is for",
        _ => "it excludes another that comes",
    }
}
