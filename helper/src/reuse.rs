//! Owns where layers of an image may be taken from without fetching them: unfinished images of earlier pulls, and
//! images that have an index of their layers (`<hex>.layers`). It refuses nothing: what does not open is not used.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;

use grus_core::digest::Digest;
use grus_squash::{KeptImage, KeptLayer, LayerId};

use crate::repository::{Left, Repository};

/// Most images opened for one pull; each takes two file descriptors.
const MAX_IMAGES: usize = 32;

/// What was found for one image.
pub struct Found {
    sources: Vec<Source>,
    /// What broken-off pulls of this very image left.
    leftovers: Vec<Left>,
}

/// An image that has some of the layers.
struct Source {
    image: KeptImage,
    /// Its index, if it is ours to remove.
    index: Option<PathBuf>,
}

impl Found {
    /// Looks in `repositories`, of which the first is the one pulled into, for the `layers` of `digest`.
    pub fn look(repositories: &[Repository], digest: &Digest, layers: &[Digest]) -> Found {
        let mut found = Found { sources: vec![], leftovers: vec![] };
        let wanted: BTreeSet<&Digest> = layers.iter().collect();
        let own = repositories.first().map(Repository::unfinished).unwrap_or_default();
        let (mine, others): (Vec<Left>, Vec<Left>) = own.into_iter().partition(|left| left.digest == *digest);
        found.leave_one(mine);
        for (place, repository) in repositories.iter().enumerate() {
            for index in indexes(repository, &wanted) {
                let image = File::open(index.with_extension("squashfs"));
                let opened = image.and_then(|image| KeptImage::open(image, File::open(&index)?));
                found.add(opened.ok(), (place == 0).then_some(index), layers);
            }
        }
        for left in others {
            found.add(left.open().ok(), left.orphan.then_some(left.index), layers);
        }
        found
    }

    /// Of several broken-off pulls of one image, the one that got furthest is taken up; the others go.
    fn leave_one(&mut self, mine: Vec<Left>) {
        let mut opened: Vec<(Left, KeptImage)> =
            mine.into_iter().filter_map(|left| left.open().ok().map(|image| (left, image))).collect();
        opened.sort_by_key(|(_, image)| std::cmp::Reverse(image.count()));
        for (place, (left, image)) in opened.into_iter().enumerate() {
            if left.orphan && place > 0 {
                left.remove();
                continue;
            }
            self.sources.push(Source { image, index: left.orphan.then(|| left.index.clone()) });
            if left.orphan {
                self.leftovers.push(left);
            }
        }
    }

    fn add(&mut self, image: Option<KeptImage>, index: Option<PathBuf>, layers: &[Digest]) {
        let Some(image) = image.filter(|_| self.sources.len() < MAX_IMAGES) else { return };
        if layers.iter().any(|layer| !image.layers(&layer_id(layer)).is_empty()) {
            self.sources.push(Source { image, index });
        }
    }

    /// Where each of `layers` may be taken from, the best first.
    pub fn layers(&self, layers: &[Digest]) -> Vec<Vec<KeptLayer>> {
        let of = |layer: &Digest| {
            let id = layer_id(layer);
            self.sources.iter().flat_map(|source| source.image.layers(&id)).collect()
        };
        layers.iter().map(of).collect()
    }

    /// A layer turned out to be damaged. The indexes that name it go: they cost a try each time. The images stay,
    /// of which only a few bytes may be wrong; whoever reads those is told by the kernel.
    pub fn distrust(&self, layer: &Digest) {
        let id = layer_id(layer);
        for source in self.sources.iter().filter(|source| !source.image.layers(&id).is_empty()) {
            if let Some(index) = &source.index {
                // One that cannot be removed costs a try next time, too.
                let _ = fs::remove_file(index);
            }
        }
    }

    /// What broke off is not needed any more: the image is there, or its room is.
    pub fn clear(&self) {
        self.leftovers.iter().for_each(Left::remove);
    }
}

/// The indexes of the sound images with some of the layers, those with most of them first.
fn indexes(repository: &Repository, wanted: &BTreeSet<&Digest>) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(repository.layout().images()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let hex = name.to_str().and_then(|name| name.strip_suffix(".layers"));
        let Some(digest) = hex.and_then(|hex| Digest::parse(&format!("sha256:{hex}")).ok()) else { continue };
        let Some(meta) = repository.has(&digest) else { continue };
        let shared = meta.layers.iter().filter(|layer| wanted.contains(layer)).count();
        if shared > 0 {
            found.push((std::cmp::Reverse(shared), entry.path()));
        }
    }
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// A layer's digest as the index has it.
pub fn layer_id(digest: &Digest) -> LayerId {
    let mut id = [0; 32];
    for (byte, pair) in id.iter_mut().zip(digest.hex().as_bytes().chunks(2)) {
        // A digest is 64 hexadecimal digits; it was parsed.
        *byte = pair.iter().fold(0, |n, digit| n << 4 | char::from(*digit).to_digit(16).unwrap_or(0) as u8);
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layers_name_is_its_digest() {
        let bytes: [u8; 32] = std::array::from_fn(|n| n as u8 * 7 + 1);
        assert_eq!(layer_id(&Digest::from_bytes(&bytes)), bytes);
    }
}
