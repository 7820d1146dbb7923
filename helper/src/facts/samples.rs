//! Images for tests, as mksquashfs makes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The image `dir/name`, of what `fill` puts into an empty directory.
pub fn image(dir: &Path, name: &str, compression: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let (tree, image) = (dir.join(format!("{name}.tree")), dir.join(name));
    fs::create_dir(&tree).expect("mkdir");
    fill(&tree);
    let mut mksquashfs = Command::new("mksquashfs");
    mksquashfs.args([&tree, &image]).args(["-quiet", "-no-progress", "-all-root", "-comp", compression]);
    let made = mksquashfs.output().expect("mksquashfs runs");
    assert!(made.status.success(), "{made:?}");
    image
}
