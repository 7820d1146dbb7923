//! Pulls onto disks that fill up.

use std::fs;
use std::path::PathBuf;

use crate::images::*;
use crate::support::{files, Lab};
use crate::tmpfs::Tmpfs;

#[test]
fn a_disk_full_at_twenty_points_is_told_and_leaves_nothing() {
    let layers: Vec<_> = (1..4).map(|n| layer(&format!("l{n}"), n, 150_000)).collect();
    let mut content = Content::default();
    let digest = content.add("1", &layers);
    let server = content.serve();
    let name = format!("{}/app:1", server.host());
    let want = undisturbed(&server.host(), "1", &digest);
    let most = want.len() / 1024 + 24;
    let mut full = 0;
    for step in 0..24 {
        let lab = Lab::new();
        let Some(disk) = Tmpfs::mount(&lab.repository(), 4 + most * step / 20) else { return };
        let said = lab.run(["pull", "-q", &name]);
        if said.code != Some(0) {
            full += 1;
            let said = said.refused(1, "No space left on device");
            assert!(said.contains("hint: free space"), "{said}");
            assert_eq!(files(&lab.repository()), Vec::<PathBuf>::new(), "step {step}");
            disk.resize(4 * most);
            assert_eq!(lab.run(["pull", "-q", &name]).ok().out.trim(), digest);
        }
        assert!(fs::read(squashfs(&lab, &digest)).expect("image") == want, "step {step}");
        lab.assert_sound();
    }
    assert!(full >= 20, "only {full} disks were too small");
}

#[test]
fn a_disk_too_small_to_go_on_is_given_back() {
    let layers = [layer("low", 1, 200_000), layer("high", 2, 600_000)];
    let mut content = Content::default();
    let digest = content.add("1", &layers);
    let lab = Lab::new();
    let want = undisturbed(&content.clone().serve().host(), "1", &digest);
    let Some(_disk) = Tmpfs::mount(&lab.repository(), want.len() / 1024 + 400) else { return };
    {
        let server = breaking(content.clone(), &layers[0], &lab);
        assert_ne!(lab.run(["pull", "-q", &format!("{}/app:1", server.host())]).code, Some(0));
    }
    assert_eq!(files(&lab.repository().join("tmp")).len(), 2, "the upper layer was finished");
    let server = content.serve();
    let name = format!("{}/app:1", server.host());
    let said = lab.run(["pull", "-q", &name]).refused(1, "No space left on device");
    assert!(said.contains("hint: free space"), "{said}");
    assert_eq!(files(&lab.repository()), Vec::<PathBuf>::new());
    // With the room it had taken there is enough.
    assert_eq!(lab.run(["pull", "-q", &name]).ok().out.trim(), digest);
    assert!(fs::read(squashfs(&lab, &digest)).expect("image") == want);
}
