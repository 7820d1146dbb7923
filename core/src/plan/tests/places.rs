//! Where mounts may go: not where only root can look, and not on the root.

use super::*;

#[test]
fn what_only_root_can_find_is_told_neither_way() {
    let outcome = |option: String, name: &str| {
        let mut case = Case::of(Box::leak(Box::new([&*option.leak()])));
        case.files.kinds.insert("/tmp/u/closed/there", Kind::Directory);
        case.files.secret = &["/tmp/u/closed/there", "/tmp/u/closed/none"];
        case.decide().map(drop).map_err(|refusal| refusal.what.replace(name, "NAME"))
    };
    for option in ["container-workdir=", "mount=/data:", "mount=/data/file:"] {
        let [there, none] =
            ["there", "none"].map(|name| outcome(format!("{option}/tmp/u/closed/{name}"), name));
        assert_eq!(there, none, "{option}");
        assert_eq!(there.is_err(), option.starts_with("mount"), "{option}: {there:?}");
    }
}

#[test]
fn what_a_sites_mount_brings_is_mounted_on_by_the_sites_mounts() {
    let mut case = Case::of(&[]);
    case.site = "mounts.site = ['/secret:/opt/s', '/data:/opt/s/data']";
    case.files.kinds.insert("/secret/data", Kind::Directory);
    case.files.secret = &["/secret", "/secret/data"];
    let plan = case.decide().expect("the site may").to_string();
    assert!(plan.contains("/data on /opt/s/data ("), "{plan}");
    case.options = &["mount=/scratch:/opt/s/data", "container-workdir=/opt/s/data"];
    let refusal = case.refused();
    assert!(refusal.what.ends_with("and /secret/data: Permission denied"), "{refusal}");
    assert!(refusal.hint.expect("a way out").contains("your own permissions"));
    // What lies above the site's source is closed, and what is in it may not be.
    case.options = &["container-workdir=/opt/s/data"];
    assert!(case.decide().is_ok());
}

#[test]
fn nothing_is_planned_over_the_root() {
    for options in [
        &["mount=/data:/l"][..],
        &["mount=type=tmpfs,dst=/opt/l"],
        &["mount=type=squashfs,src=/data/file,dst=/l"],
        &["writable-volatile=/l"],
    ] {
        let mut case = Case::of(options);
        case.tree = Tree::debian().with(Kind::Symlink, &["/l -> /", "/opt/l -> ../usr/.."]);
        let refusal = case.refused();
        assert!(refusal.what.contains("'/'") && refusal.hint.is_some(), "{refusal}");
    }
    let mut case = Case::of(&[]);
    case.tree = Tree::debian().with(Kind::Symlink, &["/l -> /"]);
    (case.workdir, case.image.working_dir) = ("/usr", "/l".into());
    assert_eq!(case.decide().expect("tasks may start there").workdir, Some(path("/l")));
}
