//! Owns how an image was made, step by step: the history of its configuration, put together with its layers. It is
//! kept beside the image for `grus history`; a stranger wrote it, so it is bounded.

use grus_core::image::Step;

use crate::image::{Identity, Image};

/// Most steps kept.
const STEPS: usize = 512;
/// Longest command kept, in characters.
const COMMAND: usize = 1000;
/// Longest remark kept, in characters.
const REMARK: usize = 200;

/// The steps of an image, first one first. None for an image of which only the tree is known.
pub fn of(image: &Image) -> Vec<Step> {
    if matches!(image.identity, Identity::AfterReading(_)) {
        return vec![];
    }
    let made = &image.config.history;
    let filled = made.iter().filter(|step| !step.empty_layer).count();
    let mut layers = image.layers.iter().map(|layer| (layer.digest.clone(), layer.size));
    if filled != image.layers.len() || made.len() > STEPS {
        // They cannot be put together: the layers alone are sure.
        let alone = |(digest, size)| Step { layer: Some(digest), size, ..Step::default() };
        return layers.take(STEPS).map(alone).collect();
    }
    let step = |made: &crate::oci::Made| {
        let (layer, size) = match made.empty_layer {
            true => (None, 0),
            false => layers.next().map_or((None, 0), |(digest, size)| (Some(digest), size)),
        };
        let cut =
            |text: &Option<String>, most| text.as_deref().unwrap_or_default().chars().take(most).collect();
        Step {
            created: made.created.as_ref().map(|at| at.chars().take(40).collect()),
            created_by: cut(&made.created_by, COMMAND),
            comment: cut(&made.comment, REMARK),
            layer,
            size,
        }
    };
    made.iter().map(step).collect()
}
