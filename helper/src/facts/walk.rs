//! The walk over an image: every file that may be ELF, every link, the loader's cache.

use std::fs::File;
use std::path::Path;

use backhand::InnerNode;
use grus_core::elf::{Collector, ImageFacts, Object, ReadAt};
use grus_core::ldcache::MAX_CACHE;
use grus_core::path::AbsPath;
use grus_core::refusal::printable;

use super::content::{Blocks, Content};
use super::reader::{filesystem, told};
use super::unreadable;
use crate::failure::Failure;

/// The facts of the image at `path`.
pub fn facts(path: &Path, name: &str) -> Result<ImageFacts, Failure> {
    let open = || File::open(path).map_err(|e| Failure::io("read", path, &e));
    let system = filesystem(open()?).map_err(|e| unreadable(name, told(&e)))?;
    let blocks = Blocks::new(&system, open()?);
    let mut collector = Collector::default();
    for node in system.files() {
        // A path that is not UTF-8 cannot be named in a profile or a plan either.
        let Some(at) = node.fullpath.to_str().and_then(|p| AbsPath::parse(p).ok()) else { continue };
        let last = at.components().next_back().unwrap_or_default().to_owned();
        match &node.inner {
            InnerNode::Symlink(link) => {
                if let Some(target) = link.link.to_str() {
                    collector.link(at, target);
                }
            }
            InnerNode::Dir(_) if last == "conda-meta" => {
                at.parent().into_iter().for_each(|prefix| collector.conda(prefix));
            }
            InnerNode::File(file) => {
                let content = Content::new(&blocks, file);
                if at.as_str() == "/etc/ld.so.cache" && content.length() <= MAX_CACHE {
                    let bytes = content.read_at(0, content.length());
                    bytes.into_iter().for_each(|bytes| collector.cache(&bytes));
                } else if Collector::wants(&last, node.header.permissions & 0o111 != 0) {
                    // A file that no loader takes is as good as none.
                    let object = Object::read(&content).ok().flatten();
                    object.into_iter().for_each(|object| collector.object(at.clone(), object));
                }
                if blocks.exhausted() {
                    return Err(unreadable(name, "it holds more than can be looked at").into());
                }
                if content.damaged() {
                    let why = format!("{} in it is damaged", printable(&node.fullpath.to_string_lossy()));
                    return Err(unreadable(name, &why).into());
                }
            }
            _ => {}
        }
    }
    Ok(collector.finish())
}
