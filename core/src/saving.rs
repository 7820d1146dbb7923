//! What the plugin tells `grus` when a container is to be saved: text, for it crosses from one program to another.

use serde::{Deserialize, Serialize};

use crate::path::AbsPath;
use crate::plan::{LaunchPlan, Make};
use crate::refusal::Refusal;

/// An order to save.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The file to write.
    pub file: AbsPath,
    /// The image that the container was made of.
    pub image: AbsPath,
    /// Whether there is a tree with changes, on standard input; else the image is copied.
    pub tree: bool,
    /// What Grus made in the tree, to mount on or as links with their targets.
    pub made: Vec<(AbsPath, Option<AbsPath>)>,
}

impl Order {
    /// The order for a container of this plan.
    pub fn new(file: &AbsPath, plan: &LaunchPlan, tree: bool) -> Self {
        let link = |make: &Make| match make {
            Make::Link(target) => Some(target.clone()),
            Make::Directory | Make::File => None,
        };
        let made = plan.skeleton.iter().filter(|_| tree).map(|made| (made.path.clone(), link(&made.make)));
        Self { file: file.clone(), image: plan.image.clone(), tree, made: made.collect() }
    }

    /// As text.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From text.
    pub fn decode(text: &str) -> Result<Self, Refusal> {
        serde_json::from_str(text).map_err(|error| {
            Refusal::user(format!("this is no order to save a container: {error}"))
                .hint("pass --container-save=FILE to srun")
        })
    }
}
