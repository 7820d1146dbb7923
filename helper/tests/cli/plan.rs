//! `grus plan`: golden plans of a small image, and its refusals.

use std::fs;

use crate::archives::*;
use crate::support::{golden, Lab};

/// The plan of an image, with what depends on machine and user cut out.
fn plan(lab: &Lab, args: &[&str]) -> String {
    let said = lab.run(["plan"].iter().chain(args)).ok();
    let lab_dir = lab.dir.path().to_str().expect("UTF-8");
    let kept = said.out.lines().filter(|line| !line.contains(" on /root ") && !line.contains(" on /home/"));
    kept.map(without_counts).map(|line| line.replace(lab_dir, "LAB") + "\n").collect()
}

#[test]
fn the_plan_of_an_image_is_as_accepted() {
    let lab = Lab::new();
    simple_layout(lab.path("layout"));
    let digest = lab.run(["import", "-q", "layout", "app:1"]).ok().out;
    fs::create_dir(lab.path("data")).expect("mkdir");
    let options = [
        "app:1",
        "--mount=./data:/data:ro",
        "--writable-volatile=/etc",
        "--no-container-mount-home",
        "--no-container-mount-workdir",
    ];
    let by_name = plan(&lab, &options);
    golden("plan.txt", &by_name.replace(digest.trim(), "DIGEST").replace(&digest.trim()[7..], "HEX"));
    let by_option: Vec<&str> = ["--container-image=app:1"].iter().chain(&options[1..]).copied().collect();
    assert_eq!(plan(&lab, &by_option), by_name);
}

#[test]
fn every_type_of_mount_is_shown_as_it_will_be() {
    let lab = Lab::new();
    simple_layout(lab.path("layout"));
    let _ = lab.run(["import", "-q", "layout", "app:1"]).ok();
    fs::write(lab.path("set.sqsh"), "looked into by a node").expect("write");
    let shown = plan(
        &lab,
        &[
            "app:1",
            "--mount=type=tmpfs,dst=/fast,size=64m,huge=advise",
            "--mount=./set.sqsh:/fast/set:sqsh+noexec",
            "--mount=src=/dev/null,dst=/fast/null,recursive=false",
            "--container-mounts=umount:/tmp,/nowhere:/x:optional",
        ],
    );
    for line in [
        "tmpfs     /fast (rw,size=64m,mode=0700,huge=advise)\n",
        "make dir  /fast/set\nsquashfs  LAB/set.sqsh on /fast/set (ro,noexec)\n",
        "make file /fast/null\nbind      /dev/null on /fast/null (rw,norec,dev)\n",
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    assert!(!shown.contains(" on /tmp ") && !shown.contains("/nowhere"), "{shown}");
    let scratch = ["plan", "app:1", "--mount=type=scratch,dst=/scr,size=1g"];
    lab.run(scratch).refused(2, "cannot make a scratch directory on /scr: this site offers none");
    fs::write(lab.path("grus.toml"), "scratch.dir = '/local'\n").expect("site file");
    assert!(plan(&lab, &scratch[1..]).contains("scratch   /scr (size=1g)\n"));
}

#[test]
fn a_file_is_planned_as_in_the_repository() {
    let lab = Lab::new();
    simple_layout(lab.path("layout"));
    let digest = lab.run(["import", "-q", "layout", "app:1"]).ok().out;
    let file = format!("./repo/images/sha256/{}.squashfs", &digest.trim()[7..]);
    assert_eq!(plan(&lab, &[&file]), plan(&lab, &["app:1"]), "the metadata beside it is used");
}

#[test]
fn the_site_decides_how_user_images_are_mounted() {
    let lab = Lab::new();
    simple_layout(lab.path("layout"));
    let _ = lab.run(["import", "layout", "app"]).ok();
    assert!(plan(&lab, &["app"]).contains("(squashfuse as the user)"));
    let site = |text: &str| fs::write(lab.path("grus.toml"), text).expect("site file");
    site("[security]\nuser-images = \"kernel\"\n");
    assert!(plan(&lab, &["app"]).contains("(kernel)"));
    site("[security]\nuser-images = \"refuse\"\n");
    lab.run(["plan", "app"]).refused(78, "only images of its system repository");
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let lab = Lab::new();
    simple_layout(lab.path("layout"));
    let _ = lab.run(["import", "layout", "app"]).ok();
    lab.run(["plan"]).refused(2, "no image is named");
    lab.run(["plan", "none"]).refused(2, "run on the host");
    lab.run(["plan", "nosuch"]).refused(2, "image nosuch:latest is not in the repository");
    lab.run(["plan", "./nosuch.squashfs"]).refused(2, "cannot read the image");
    lab.run(["plan", "app", "--mount=/nowhere:/x"]).refused(2, "cannot bind /nowhere on /x");
    lab.run(["plan", "app", "--container-mount-home", "--no-container-mount-home"]).refused(2, "contradict");
    fs::write(lab.path("text.squashfs"), "no image").expect("write");
    lab.run(["plan", "./text.squashfs"]).refused(65, "no readable SquashFS file");
}

/// Group and passwd have as many lines as the caller has groups.
fn without_counts(line: &str) -> String {
    match line.starts_with("text ") {
        true => line.split(" (").next().unwrap_or(line).to_owned(),
        false => line.to_owned(),
    }
}
