//! Imports onto disks that fill up.

use std::fs;
use std::path::PathBuf;

use crate::archives::*;
use crate::support::{files, Lab};
use crate::tmpfs::Tmpfs;

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let lab = Lab::new();
    let mut noise = vec![];
    let mut state = 1_u32;
    while noise.len() < 400 << 10 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise.push((state >> 24) as u8);
    }
    let layer = tar_of(&[("etc/", b""), ("etc/noise", &noise)]);
    let members = docker_archive(&[(&["app:1"], &[layer])]);
    fs::write(lab.path("app.tar"), tar_members(&members)).expect("write");
    let mut full = 0;
    // From too small for the first directory to just too small for the tag.
    for kib in (4..=440).step_by(20) {
        let Some(_disk) = Tmpfs::mount(&lab.repository(), kib) else { return };
        let said = lab.run(["import", "-q", "app.tar", "app"]);
        if said.code == Some(0) {
            lab.assert_sound();
            continue;
        }
        full += 1;
        let said = said.refused(1, "No space left on device");
        assert!(said.contains("hint: free space"), "{said}");
        let left: Vec<PathBuf> = files(&lab.repository());
        let visible = left.iter().filter(|p| p.extension() == Some("squashfs".as_ref())).count();
        assert_eq!((visible, files(&lab.repository().join("tmp"))), (0, vec![]), "{kib} KiB: {left:?}");
        let spooled = lab.pipe(["import", "-", "app"], &fs::read(lab.path("app.tar")).expect("read"));
        spooled.refused(1, "No space left on device");
        assert_eq!(files(&lab.repository().join("tmp")), Vec::<PathBuf>::new());
    }
    assert!(full >= 10, "only {full} disks were too small");
}
