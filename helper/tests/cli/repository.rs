//! `grus images` and `grus rmi` on repositories in every state.

use std::fs;

use serde_json::Value;

use crate::archives::*;
use crate::support::Lab;

/// A lab with one image under the given names; its digest.
fn with_image(names: &[&str]) -> (Lab, String) {
    let lab = Lab::new();
    let (_, digest) = simple_layout(lab.path("layout"));
    for name in names {
        let _ = lab.run(["import", "layout", name]).ok();
    }
    (lab, digest)
}

#[test]
fn an_empty_and_a_missing_repository_are_empty() {
    let lab = Lab::new();
    let header = "REPOSITORY  TAG  DIGEST  CREATED  SIZE  SERVER\n";
    assert_eq!(lab.run(["images"]).ok().out, header);
    assert_eq!(lab.run(["images", "--json"]).ok().out, "[]\n");
    assert_eq!(lab.run(["images", "-q"]).ok().out, "");
    assert!(!lab.repository().exists(), "looking makes nothing");
    fs::create_dir(lab.repository()).expect("mkdir");
    assert_eq!(lab.run(["images"]).ok().out, header);
}

#[test]
fn a_repository_that_is_a_file_is_told_as_such() {
    let lab = Lab::new();
    fs::write(lab.repository(), "x").expect("write");
    lab.run(["images"]).refused(1, "is not a repository");
    simple_layout(lab.path("layout"));
    let said = lab.run(["import", "layout", "app"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.starts_with("grus: cannot create "), "{said:?}");
}

#[test]
fn tags_and_nested_names_live_side_by_side() {
    let names = ["x.y/a:b", "x.y/a/b:c", "x.y/a/b/c:d", "localhost:5000/a:b", "a:b"];
    let (lab, digest) = with_image(&names);
    let shown = lab.run(["images"]).ok().out;
    for name in ["x.y/a ", "x.y/a/b ", "x.y/a/b/c ", "localhost:5000/a ", "a "] {
        assert!(shown.lines().any(|l| l.starts_with(name)), "{name}: {shown}");
    }
    assert_eq!(shown.matches(&digest[7..19]).count(), names.len());
    let _ = lab.run(["rmi", "x.y/a:b"]).ok();
    let shown = lab.run(["images"]).ok().out;
    assert!(!shown.contains("x.y/a  ") && shown.contains("x.y/a/b "), "{shown}");
    let listed: Value =
        serde_json::from_str(&lab.run(["images", "--json", "x.y/a/b"]).ok().out).expect("JSON");
    assert_eq!(listed[0]["reference"], "x.y/a/b:c");
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
}

#[test]
fn the_image_goes_with_its_last_tag() {
    let (lab, digest) = with_image(&["app:1", "app:2"]);
    assert_eq!(lab.run(["rmi", "app:1"]).ok().out, "Untagged: app:1\n");
    assert_eq!(lab.run(["images", "-q"]).ok().out.trim(), digest);
    let said = lab.run(["rmi", "app:2"]).ok().out;
    assert!(said.starts_with(&format!("Untagged: app:2\nDeleted: {digest} (")), "{said}");
    lab.assert_empty();
    assert!(
        fs::read_dir(lab.repository().join("refs")).expect("refs").next().is_none(),
        "no empty directories"
    );
}

#[test]
fn an_image_is_removed_by_digest_and_by_its_beginning() {
    for length in [7 + 64, 7 + 12] {
        let (lab, digest) = with_image(&["app:1"]);
        let said = lab.run(["rmi", &digest[..length]]).ok().out;
        assert!(said.contains("Untagged: app:1\nDeleted: sha256:"), "{said}");
        lab.assert_empty();
    }
    let (lab, digest) = with_image(&["app:1"]);
    let _ = lab.run(["rmi", &digest[7..19]]).ok();
    lab.assert_empty();
}

#[test]
fn an_image_with_several_tags_is_not_removed_by_digest_unless_forced() {
    let (lab, digest) = with_image(&["app:1", "app:2"]);
    lab.run(["rmi", &digest]).refused(2, "has several tags: app:1, app:2");
    let said = lab.run(["rmi", "--force", &digest]).ok().out;
    assert_eq!(said.lines().count(), 3, "{said}");
    lab.assert_empty();
}

#[test]
fn a_misspelt_name_leaves_everything_as_it_was() {
    let (lab, digest) = with_image(&["app:1"]);
    let said = lab.run(["rmi", "app:1", "ap:1"]).refused(2, "no image ap:1 in the repository");
    assert!(said.contains("did you mean app:1?"), "{said}");
    lab.run(["rmi", "App"]).refused(2, "names of images are lower case");
    lab.run(["rmi", "sha256:0000"]).refused(2, "no image sha256:0000");
    assert_eq!(lab.run(["images", "-q"]).ok().out.trim(), digest);
}

#[test]
fn damage_is_told_and_can_be_mended() {
    let (lab, digest) = with_image(&["app:1"]);
    let image = lab.repository().join(format!("images/sha256/{}.squashfs", &digest[7..]));
    fs::write(&image, "hsqs").expect("write");
    let said = lab.run(["images"]).ok();
    assert!(said.err.contains("app:1 (linux/") && said.err.contains("no sound image"), "{said:?}");
    assert!(said.out.contains("missing"), "{said:?}");
    let _ = lab.run(["import", "-q", "layout", "app:1"]).ok();
    lab.assert_sound();

    fs::remove_file(&image).expect("remove");
    let _ = lab.run(["rmi", "app:1"]).ok();
    lab.assert_empty();
}

#[test]
fn junk_in_a_repository_is_reported_and_otherwise_ignored() {
    let (lab, digest) = with_image(&["app:1"]);
    let refs = lab.repository().join("refs/docker.io/library");
    fs::write(refs.join("junk\x1b[31m"), "x").expect("write");
    fs::create_dir_all(refs.join("app/:bad")).expect("mkdir");
    fs::write(refs.join("app/:bad/linux-amd64.json"), r#"{"digest":"sha256:../../x"}"#).expect("write");
    std::os::unix::fs::symlink("/", refs.join("app/root")).expect("link");
    fs::write(lab.repository().join("images/sha256/readme.txt"), "x").expect("write");
    let orphan = lab.repository().join(format!("images/sha256/{}.squashfs", "0".repeat(64)));
    fs::write(&orphan, "x").expect("write");
    let said = lab.run(["images", "-q"]).ok();
    assert_eq!(said.out.trim(), digest);
    assert_eq!(said.err.lines().count(), 4, "{said:?}");
    assert!(!said.err.contains('\x1b'), "{said:?}");
    fs::remove_file(refs.join("app/:bad/linux-amd64.json")).expect("remove");
    let _ = lab.run(["rmi", &format!("sha256:{}", "0".repeat(64))]).ok();
    assert!(!orphan.exists());
}

/// A disk's error, a permission, or what a newer Grus wrote: the image behind such a tag must not go.
#[test]
fn while_a_tag_cannot_be_read_no_image_goes() {
    let (lab, digest) = with_image(&["app:1"]);
    let tag = crate::support::files(&lab.repository().join("refs")).remove(0);
    let newer = format!(r#"{{"digest":"{digest}","signatures":[{{"scheme":"of another day"}}]}}"#);
    for (content, reason) in
        [(Some(newer.as_str()), "malformed"), (Some("{"), "malformed"), (None, "symbolic link")]
    {
        fs::remove_file(&tag).expect("remove");
        match content {
            Some(content) => fs::write(&tag, content).expect("write"),
            // Not even root can read it.
            None => std::os::unix::fs::symlink(&tag, &tag).expect("link"),
        }
        assert!(lab.run(["images"]).ok().err.contains(reason));
        for args in [vec!["prune"], vec!["prune", "-n"], vec!["prune", "--keep", "0"], vec!["rmi", &digest]] {
            let said = lab.run(args).refused(1, reason);
            assert!(said.contains(":1/linux-") && said.contains("hint: pull that image again"), "{said}");
        }
        assert_eq!(lab.run(["images", "-q"]).ok().out.trim(), digest);
    }
    let _ = lab.run(["import", "-q", "layout", "app:2"]).ok();
    assert_eq!(lab.run(["rmi", "app:2"]).out, "Untagged: app:2\n", "what was done is told");
    let _ = lab.run(["import", "-q", "layout", "app:1"]).ok();
    assert_eq!(lab.run(["prune"]).ok().out, "Freed: 0 B\n");
    lab.assert_sound();
}

#[test]
fn an_image_without_a_tag_is_listed_and_removed() {
    let (lab, digest) = with_image(&["app:1"]);
    fs::remove_dir_all(lab.repository().join("refs")).expect("remove");
    assert!(lab.run(["images"]).ok().out.contains("<none>"));
    let said = lab.run(["rmi", &digest]).ok().out;
    assert!(said.starts_with("Deleted: "), "{said}");
    lab.assert_empty();
}

#[test]
fn files_are_as_readable_as_the_umask_allows() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    simple_layout(lab.path("layout"));
    for (umask, mode) in [("022", 0o644), ("077", 0o600)] {
        let script =
            format!("umask {umask}; exec {} import -q layout app:{umask}", env!("CARGO_BIN_EXE_grus"));
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script]).env("GRUS_REPOSITORY", lab.path(umask)).current_dir(lab.dir.path());
        command.stdout(std::process::Stdio::null());
        assert!(command.status().expect("sh").success());
        for file in crate::support::files(&lab.path(umask)) {
            assert_eq!(fs::metadata(&file).expect("file").permissions().mode() & 0o777, mode, "{file:?}");
        }
    }
}

#[test]
fn the_system_repository_is_for_all_to_read_and_for_root_to_write() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let lab = Lab::new();
    simple_layout(lab.path("layout"));
    fs::set_permissions(lab.dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let text = format!("[repository]\nsystem = \"{}\"\n", lab.path("system").display());
    fs::write(lab.path("grus.toml"), text).expect("site file");
    // A umask that keeps others out does not count here.
    let mut command = std::process::Command::new("sh");
    let script = format!("umask 077; exec {} --system import -q layout app", env!("CARGO_BIN_EXE_grus"));
    command.args(["-c", &script]).env("GRUS_CONFIG", lab.path("grus.toml")).current_dir(lab.dir.path());
    assert!(command.stdout(std::process::Stdio::null()).status().expect("sh").success());
    for file in crate::support::files(&lab.path("system")) {
        assert_eq!(fs::metadata(&file).expect("file").permissions().mode() & 0o777, 0o644, "{file:?}");
    }
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    let program = lab.path("grus");
    fs::copy(env!("CARGO_BIN_EXE_grus"), &program).expect("copy");
    let as_nobody = |args: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.args(args).env_clear().env("GRUS_CONFIG", lab.path("grus.toml")).uid(65534).gid(65534);
        crate::support::Output::of(command.current_dir(lab.dir.path()).output().expect("grus starts"))
    };
    assert!(as_nobody(&["--system", "images"]).ok().out.contains("app "));
    assert!(as_nobody(&["plan", "app"]).ok().out.lines().next().is_some_and(|l| l.ends_with("(kernel)")));
    as_nobody(&["--system", "import", "layout", "b"]).refused(2, "cannot write to the system repository");
    let said = as_nobody(&["--system", "rmi", "app"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(as_nobody(&["--system", "images"]).ok().out.contains("app "));
}

#[test]
fn a_configuration_that_could_not_be_read_again_replaces_no_image() {
    let (lab, digest) = with_image(&["app:1"]);
    let layers = [base_layer()];
    let mut large = config(&layers, arch());
    // Small enough to be taken, and larger as it is kept.
    large["config"]["Cmd"] = vec!["x"; 400_000].into();
    let mut layout = Layout::new(lab.path("large"));
    let image = layout.configured(&layers, &large);
    layout.add(image, Some("latest"), None);
    layout.finish();
    lab.run(["import", "-q", "large", "app:1"]).refused(65, "the image's configuration is too large");
    let images: Value = serde_json::from_str(&lab.run(["images", "--json"]).ok().out).expect("JSON");
    assert_eq!(images[0]["digest"], digest.as_str());
}
