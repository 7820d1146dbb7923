//! What is read before anything is mounted: site files that must be root's alone, image repositories that anyone may have
//! written, accounts.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{chown, symlink, PermissionsExt};
use std::path::Path;

use grus_core::digest::Digest;
use grus_core::image::{ImageMeta, META_VERSION};
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::repository::{Layout, Tag};
use grus_enter::{account, repository, site};
use support::{run, Lab};

#[track_caller]
fn distrusted(lab: &Lab, why: &str) {
    let refusal = site::load(&lab.path("grus.toml")).expect_err(why);
    assert!(refusal.what.contains(why), "{}", refusal.what);
    assert!(refusal.hint.is_some());
}

#[test]
fn site_files_are_merged_in_order() {
    let lab = lab!();
    lab.file("grus.toml", "mounts.tmp = false\nvolatile.size = '1g'\n", 0o644);
    lab.dir("grus.d", 0o755);
    lab.file("grus.d/20.toml", "volatile.size = '3g'\n", 0o644);
    lab.file("grus.d/10.toml", "volatile.size = '2g'\nmounts.home = false\n", 0o644);
    lab.file("grus.d/30.toml.rpmsave", "nonsense", 0o666);
    lab.file("grus.d/.40.toml", "nonsense", 0o666);
    let site = site::load(&lab.path("grus.toml")).expect("good files");
    assert_eq!(
        (site.mounts.tmp, site.mounts.home, site.volatile.size.to_string()),
        (false, false, "3g".into())
    );
}

#[test]
fn a_site_file_that_others_could_have_written_is_refused() {
    let lab = lab!();
    distrusted(&lab, "is missing");
    let file = lab.file("grus.toml", "", 0o664);
    distrusted(&lab, "writable by its group");
    fs::set_permissions(&file, Permissions::from_mode(0o646)).expect("lab");
    distrusted(&lab, "writable by others");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("lab");
    chown(&file, Some(support::UID), None).expect("chown");
    distrusted(&lab, "owned by user id 54321, not by root");
    chown(&file, Some(0), None).expect("chown");
    assert!(site::load(&file).is_ok());
    lab.dir("grus.d", 0o1777);
    assert!(site::load(&file).is_ok(), "no file is read from there");
    lab.file("grus.d/a.toml", "", 0o644);
    distrusted(&lab, "grus.d is writable by others");
    lab.dir("grus.d", 0o755);
    lab.file("grus.d/b.toml", "", 0o666);
    distrusted(&lab, "b.toml is writable by others");
    fs::remove_dir_all(lab.path("grus.d")).expect("lab");
    lab.dir("", 0o775);
    distrusted(&lab, "is writable by its group");
    lab.dir("", 0o755);
    // A link is fine where what it leads to is; the directories above that count.
    let elsewhere = lab.dir("elsewhere", 0o1777);
    fs::rename(&file, elsewhere.join("grus.toml")).expect("lab");
    symlink(elsewhere.join("grus.toml"), &file).expect("lab");
    distrusted(&lab, "elsewhere is writable by others");
}

#[test]
fn a_site_file_that_is_wrong_is_refused_and_none_hangs() {
    let lab = lab!();
    lab.file("grus.toml", "mounts.hmoe = true\n", 0o644);
    distrusted(&lab, "unknown key 'mounts.hmoe'; did you mean 'mounts.home'?");
    lab.file("grus.toml", &"#".repeat(2 << 20), 0o644);
    distrusted(&lab, "is larger than");
    fs::remove_file(lab.path("grus.toml")).expect("lab");
    run("mkfifo", &["-m", "644", &lab.path("grus.toml").to_string_lossy()]);
    distrusted(&lab, "is not a regular file");
    fs::remove_file(lab.path("grus.toml")).expect("lab");
    lab.dir("grus.toml", 0o755);
    distrusted(&lab, "is not a regular file");
}

#[test]
fn accounts_have_names_where_there_are_some() {
    let root = account::user(0, 0, &[0, 54321]).expect("root");
    assert_eq!((root.name.as_str(), root.home.as_str()), ("root", "/root"));
    let groups: Vec<_> = root.groups.iter().map(|g| (g.gid, g.name.as_deref())).collect();
    assert_eq!(groups, [(0, Some("root")), (54321, None)]);
    let refusal = account::user(3_999_999_999, 0, &[]).expect_err("nobody has this id");
    assert_eq!(refusal.what, "user id 3999999999 is not known on this node");
    assert!(refusal.hint.is_some());
}

/// An image of digest 1 under two names, as `grus pull` would leave it.
fn filled(root: &Path) -> (Layout, Digest, Platform) {
    let (layout, digest, here) = (Layout::new(root), Digest::from_bytes(&[1; 32]), Platform::here());
    fs::create_dir_all(layout.images()).expect("repository");
    fs::write(layout.image(&digest), "squashfs").expect("repository");
    let meta = ImageMeta {
        version: META_VERSION,
        reference: None,
        digest: digest.clone(),
        platform: here.clone(),
        created: None,
        size: 8,
        content: None,
        unpacked_size: 8,
        config: Default::default(),
        layers: vec![],
        history: vec![],
    };
    fs::write(layout.meta(&digest), meta.to_json()).expect("repository");
    let index = Digest::from_bytes(&[9; 32]);
    for name in ["app:1".to_owned(), format!("app@{index}")] {
        let file = layout.tag(&reference(&name), &here).expect("a file");
        fs::create_dir_all(file.parent().expect("a directory")).expect("repository");
        let tag = Tag { digest: digest.clone(), resolved: Some(index.clone()), signatures: vec![] };
        fs::write(file, tag.to_json()).expect("repository");
    }
    (layout, digest, here)
}

fn reference(text: &str) -> Reference {
    Reference::parse(text).expect(text)
}

#[test]
fn images_are_found_by_tag_and_digest() {
    let dir = tempfile::tempdir().expect("directory");
    let (layout, digest, here) = filled(dir.path());
    let index = Digest::from_bytes(&[9; 32]);
    for name in ["app:1".into(), format!("app@{digest}"), format!("app@{index}"), format!("app:2@{index}")] {
        let found = repository::find(&layout, &reference(&name), &here).expect(&name).expect(&name);
        assert_eq!((found.digest, found.path), (digest.clone(), layout.image(&digest)), "{name}");
    }
    for name in ["app:2".to_owned(), "other:1".into(), format!("app@{}", Digest::from_bytes(&[2; 32]))] {
        assert_eq!(repository::find(&layout, &reference(&name), &here), Ok(None), "{name}");
    }
    let other = Platform::parse("linux/s390x").expect("platform");
    assert_eq!(repository::find(&layout, &reference("app:1"), &other), Ok(None));
    assert_eq!(repository::find(&Layout::new("/none"), &reference("app:1"), &here), Ok(None));
    assert_eq!(repository::meta_beside(&layout.image(&digest)).map(|m| m.is_some()), Ok(true));
    // Half of an image is no image.
    fs::remove_file(layout.meta(&digest)).expect("repository");
    assert_eq!(repository::find(&layout, &reference("app:1"), &here), Ok(None));
}

#[test]
fn odd_files_in_a_repository_are_errors_that_do_not_hang() {
    let dir = tempfile::tempdir().expect("directory");
    let (layout, digest, here) = filled(dir.path());
    let find = || repository::find(&layout, &reference("app:1"), &here);
    let files = [layout.tag(&reference("app:1"), &here).expect("a file"), layout.meta(&digest)];
    for file in &files {
        let good = fs::read(file).expect("repository");
        let text = file.to_string_lossy();
        fs::remove_file(file).expect("repository");
        run("mkfifo", &[&text]);
        assert!(find().expect_err("a FIFO").what.contains("is not a regular file"));
        fs::remove_file(file).expect("repository");
        symlink(file, file).expect("repository");
        assert!(find().expect_err("a loop").what.contains("Too many levels of symbolic links"));
        fs::remove_file(file).expect("repository");
        fs::write(file, "x".repeat(5 << 20)).expect("repository");
        assert!(find().expect_err("huge").what.contains("larger than"));
        fs::write(file, "{").expect("repository");
        assert!(find().expect_err("cut").what.contains("malformed"));
        fs::write(file, good).expect("repository");
    }
    assert!(find().is_ok_and(|found| found.is_some()));
    fs::remove_file(layout.image(&digest)).expect("repository");
    fs::create_dir(layout.image(&digest)).expect("repository");
    assert!(find().expect_err("a directory").what.contains("is not a regular file"));
}

#[test]
fn a_list_shows_good_and_broken_images() {
    let dir = tempfile::tempdir().expect("directory");
    let (layout, digest, _) = filled(dir.path());
    let broken = Digest::from_bytes(&[2; 32]);
    fs::write(layout.image(&broken), "").expect("repository");
    fs::write(layout.meta(&broken), "{").expect("repository");
    fs::write(layout.images().join("README"), "").expect("repository");
    let list = repository::list(&layout).expect("a list");
    assert_eq!(list.len(), 2);
    assert_eq!(list[0].as_ref().map(|found| &found.digest), Ok(&digest));
    assert!(list[1].as_ref().expect_err("broken").what.contains("is malformed"));
    assert_eq!(repository::list(&Layout::new("/none")), Ok(vec![]));
}
