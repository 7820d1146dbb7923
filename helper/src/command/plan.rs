//! `grus plan`: the launch plan of a container, decided as on a node but with the caller's own eyes and without
//! privilege.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use grus_core::elf::Object;
use grus_core::image::ImageConfig;
use grus_core::path::AbsPath;
use grus_core::plan::{decide, wants_devices, wish, Host, How, Job, Kind, Launch, Opener, Unavailable};
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::refusal::Refusal;
use grus_core::request::{Image, Request};
use grus_core::site::UserImages;
use grus_enter::repository::{find, meta_beside};
use grus_enter::{cdi, library};

use super::launch_options::{image_option, LaunchOptions};
use super::libraries::ruling;
use crate::context::{working_directory, Context};
use crate::failure::{reason, Failure};
use crate::output;
use crate::tree::Tree;

const EXAMPLES: &str = "\
Examples:
  grus plan ubuntu:24.04
  grus plan ubuntu:24.04 --mount=/scratch:/data:ro --writable-volatile=/var/tmp
  grus plan --container-image=./app.squashfs --no-container-mount-home

The plan is that of a job submitted from here, with the variables that stand
for options (GRUS_CONTAINER_MOUNTS and the like). What only the job knows, such
as the directories of Slurm and PMIx, is not in it. Nothing is mounted and no
privilege is needed.";

/// Arguments of `grus plan`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image, as for srun's --container-image
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    #[command(flatten)]
    options: LaunchOptions,
}

/// An image found.
pub(super) struct Found {
    pub(super) path: AbsPath,
    pub(super) config: ImageConfig,
    system: bool,
}

impl Found {
    /// One that the user can write.
    pub(super) fn of_user(path: AbsPath, config: ImageConfig) -> Self {
        Self { path, config, system: false }
    }
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let cwd = working_directory()?;
        let variable = |name: &str| context.environment.get(name).cloned();
        let variables = Request::from_variables(variable, &cwd)?;
        let request = self.options.request(self.image.as_deref(), &cwd)?.over(variables);
        let Some(image) = &request.image else {
            return Err(Refusal::user("no image is named")
                .hint(format!("write 'grus plan IMAGE' or add --{}", image_option()))
                .into());
        };
        let found = match image {
            Image::None => {
                return Err(Refusal::user(
                    "with the image 'none' the tasks run on the host; there is no plan",
                )
                .hint("name an image")
                .into())
            }
            Image::Reference(reference) => in_repository(context, reference)?,
            Image::File(path) => file(path)?,
        };
        let how = how(context, &found)?;
        let tree = Tree::open(found.path.as_path(), found.path.as_str())?;
        let wish = wish(&request, &context.site, Some((&tree, &OwnView)))?;
        let ruling = ruling(context, &found, &image.shown(), &wish)?;
        let job = Job {
            user: context.user()?,
            workdir: cwd,
            environment: context.environment.clone(),
            slurm_paths: vec![],
        };
        let wanted = wants_devices(&request, &context.site, &job.environment);
        let devices = wanted.then(|| cdi::load(&context.site.cdi.dirs()));
        let launch = Launch {
            request: &request,
            image: &found.path,
            how,
            config: &found.config,
            site: &context.site,
            job: &job,
            swap: ruling.as_ref().map(|ruling| &ruling.swap),
            devices: devices.as_ref(),
            one_task_of_several: false,
        };
        let mut plan = decide(&launch, &tree, &OwnView)?;
        plan.warnings.extend(ruling.into_iter().flat_map(|ruling| ruling.swap.warnings));
        output::print(&plan.to_string())
    }
}

/// Finds the image as the plugin does.
pub(super) fn in_repository(context: &Context, reference: &Reference) -> Result<Found, Failure> {
    let here = Platform::here();
    for repository in context.lookup()? {
        let Some(found) = find(repository.layout(), reference, &here)? else { continue };
        found.meta.check_platform(&here, &reference.familiar())?;
        let system = context.system_repository()?.is_some_and(|s| s.root() == repository.root());
        return Ok(Found { path: absolute(&found.path)?, config: found.meta.config, system });
    }
    let place = context.repository()?.root().display().to_string();
    let name = reference.familiar();
    let near =
        super::name::nearest_name(context, &name).map_or(String::new(), |near| format!(", or name {near}"));
    Err(Refusal::user(format!("image {name} is not in the repository {place}"))
        .hint(format!("run 'grus pull {name}'{near}"))
        .into())
}

/// An image file by path, with the configuration beside it.
pub(super) fn file(path: &AbsPath) -> Result<Found, Failure> {
    fs::metadata(path.as_path()).map_err(|e| {
        Refusal::user(format!("cannot read the image {path}: {}", reason(&e)))
            .hint("check the path; a name without '/' or './' before it is looked up in the repository")
    })?;
    // Any file may bear the metadata's name; what is no metadata is no configuration either.
    let meta = meta_beside(path.as_path()).ok().flatten();
    let config = meta.map(|m| m.config).unwrap_or_default();
    Ok(Found { path: path.clone(), config, system: false })
}

/// How a node would mount it (ADR 4): by the kernel only what root alone can write, unless the site trusts its users.
fn how(context: &Context, found: &Found) -> Result<How, Failure> {
    let roots = found.system
        && fs::metadata(found.path.as_path()).is_ok_and(|m| m.uid() == 0 && m.mode() & 0o022 == 0);
    match (roots, context.site.security.user_images) {
        (true, _) | (_, UserImages::Kernel) => Ok(How::Kernel),
        (false, UserImages::Fuse) => Ok(How::Fuse),
        (false, UserImages::Refuse) => Err(Refusal::site(format!(
            "this site runs only images of its system repository, not {}",
            found.path
        ))
        .hint("'grus images --system' lists them; ask the administrator to add yours")
        .into()),
    }
}

pub(super) fn absolute(path: &Path) -> Result<AbsPath, Failure> {
    let path: PathBuf = std::path::absolute(path).map_err(|e| Failure::io("use", path, &e))?;
    Ok(AbsPath::parse(&path.to_string_lossy())?)
}

/// The host as the caller sees it.
pub(super) struct OwnView;

impl Host for OwnView {
    fn source(&self, path: &AbsPath, _opener: Opener) -> Result<Kind, Unavailable> {
        let meta = fs::metadata(path.as_path()).map_err(|e| Unavailable(reason(&e)))?;
        let kind = meta.file_type();
        Ok(match () {
            () if kind.is_dir() => Kind::Directory,
            () if kind.is_file() => Kind::File,
            () if std::os::unix::fs::FileTypeExt::is_char_device(&kind) => Kind::Device,
            () if std::os::unix::fs::FileTypeExt::is_block_device(&kind) => Kind::Device,
            () => Kind::Other,
        })
    }

    fn missing(&self, paths: &BTreeSet<AbsPath>, opener: Opener) -> Option<(AbsPath, Unavailable)> {
        paths.iter().find_map(|path| Some((path.clone(), self.source(path, opener).err()?)))
    }

    fn library(&self, path: &AbsPath, opener: Opener) -> Option<Object> {
        // A FIFO is not opened.
        (self.source(path, opener) == Ok(Kind::File))
            .then(|| fs::File::open(path.as_path()).ok())?
            .map(library::linkage)?
    }

    fn usable(&self, path: &AbsPath) -> Result<(), Unavailable> {
        use rustix::fs::{accessat, Access, AtFlags, CWD};
        let may = accessat(CWD, path.as_path(), Access::READ_OK, AtFlags::EACCESS);
        may.map_err(|errno| Unavailable(reason(&errno.into())))
    }

    fn text(&self, path: &AbsPath, limit: usize) -> Option<Vec<u8>> {
        fs::read(path.as_path()).ok().filter(|text| text.len() <= limit)
    }

    fn passwd(&self) -> Vec<u8> {
        fs::read("/etc/passwd").unwrap_or_default()
    }
}
