//! Where a container is to be saved: judged when the step starts, so that no work is lost for a wrong name, and again
//! before anything is written.

use std::path::{Path, PathBuf};

use grus_core::repository::Layout;
use grus_core::Refusal;
use rustix::fs::{accessat, Access, AtFlags, CWD};

use crate::call::shown;
use crate::failure::reason;
use crate::repository::meta_beside;

/// Refuses a file that cannot be made or replaced by the caller. Nothing but a regular file is ever replaced, and
/// nothing of another kind than metadata beside it.
pub fn check(file: &Path) -> Result<(), Refusal> {
    let refuse = |why: String, hint: &str| {
        Err(Refusal::user(format!("cannot save to {}: {why}", shown(file))).hint(hint.to_owned()))
    };
    let dir = file.parent().unwrap_or(file);
    if !dir.is_dir() {
        return refuse(format!("{} is no directory here", shown(dir)), "create it first: mkdir -p");
    }
    if let Err(errno) = accessat(CWD, dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        return refuse(
            format!("{}: {}", shown(dir), reason(errno)),
            "choose a directory that you can write to",
        );
    }
    match file.symlink_metadata() {
        Ok(meta) if meta.is_symlink() => {
            return refuse("it is a symbolic link".into(), "give the path that it leads to")
        }
        Ok(meta) if !meta.is_file() => {
            return refuse("it is there and no regular file".into(), "choose another name")
        }
        _ => {}
    }
    let beside = beside(file);
    if beside == file {
        return refuse("its ending is that of the metadata beside it".into(), "end it in .squashfs");
    }
    match beside.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(meta) if meta.is_file() && meta_beside(file).is_ok_and(|meta| meta.is_some()) => Ok(()),
        Ok(_) => refuse(
            format!("{}, where its metadata go, is something else", shown(&beside)),
            "choose another name",
        ),
    }
}

/// Where the metadata of a saved image are.
pub fn beside(file: &Path) -> PathBuf {
    Layout::meta_beside(file)
}
