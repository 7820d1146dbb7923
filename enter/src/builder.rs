//! The builder thread: started early as root, handed its work by whoever knows the request.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use grus_core::path::AbsPath;
use grus_core::plan::Job;
use grus_core::platform::Platform;
use grus_core::request::Request;
use grus_core::site::Site;

use crate::container::Container;
use crate::failure::Failure;

/// How long a build may take if nothing else is said.
pub const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Everything a build is made from.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// What the user asks for.
    pub request: Request,
    /// The site's choices.
    pub site: Arc<Site>,
    /// The job.
    pub job: Job,
    /// The image file; opened as the user.
    pub image: AbsPath,
    /// The user's id.
    pub uid: u32,
    /// The user's primary group.
    pub gid: u32,
    /// The user's supplementary groups.
    pub gids: Vec<u32>,
    /// The node's platform.
    pub platform: Platform,
    /// The node's name, for texts.
    pub node: Option<String>,
    /// How long [`Builder::build`] waits; [`TIME_LIMIT`] unless there is a reason.
    pub limit: Duration,
}

/// A thread that waits to build one container. Dropping it ends the thread.
#[derive(Debug)]
pub struct Builder {}

impl Builder {
    /// Starts the thread; call it as root (init_post_opt).
    pub fn start() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Hands the work over and waits for the container.
    ///
    /// May be called with the user's effective id, and from a process that shares only memory with the one that
    /// called [`Builder::start`] (Slurm's contain_spank); the container's descriptor is in the starter's table.
    pub fn build(self, inputs: Inputs) -> Result<Container, Failure> {
        let _ = inputs;
        Err(grus_core::Refusal::site("building is not ready").into())
    }
}
